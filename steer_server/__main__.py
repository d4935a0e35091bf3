"""`python -m steer_server` is `steer-server`."""

from steer_server.cli import main

main()
