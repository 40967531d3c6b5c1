"""torchrun for the processes of one node: `python -m qilin_lib.train.one_node --nproc_per_node=2 -m module job`.

Its store and the processes' sockets listen on loopback alone. torch 2.13's TCPStore listens on all interfaces, whatever
--rdzv_endpoint or --master_addr name, and asks nobody for a secret; agents of --standalone unpickle what lies in it.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

HOST = "127.0.0.1"


def _rendezvous(asked: Any) -> Any:
    """torchrun's static rendezvous of one node, over a store on a free port of loopback."""
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    rendezvous = StaticTCPRendezvous(HOST, port, rank=0, world_size=1, run_id=asked.run_id, timeout=600)
    rendezvous.get_backend = lambda: asked.backend
    store = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach(), "use_libuv": True}
    rendezvous._store = TCPStore(HOST, port, **store)
    return rendezvous


if __name__ == "__main__":
    from torch.distributed import run
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    rendezvous_handler_registry.register("loopback", _rendezvous)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    run.main(["--rdzv_backend=loopback", *sys.argv[1:]])
