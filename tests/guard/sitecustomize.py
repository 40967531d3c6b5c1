"""On the PYTHONPATH of every child that a test starts: Python imports this module by its name at start-up."""

import no_network

no_network.install()
