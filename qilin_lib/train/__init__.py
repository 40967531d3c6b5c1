"""03-05: DCPT, SFT and DPO, each in a child process; preflight and launch."""
