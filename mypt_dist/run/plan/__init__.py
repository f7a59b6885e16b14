"""What a run needs and how long it takes, told before anything is started."""
