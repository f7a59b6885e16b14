"""``mypt doctor``: what of a machine, an environment and a run file would hurt a run, found before it does."""
