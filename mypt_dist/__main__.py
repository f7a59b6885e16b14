"""``python -m mypt_dist``, for launchers that take a module."""

from mypt_dist.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
