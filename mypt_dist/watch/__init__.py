"""Whether a rank still makes progress, who holds up the others, and what ends a run that hangs.

The rank writes into shared memory what it is at (`board`). A small process beside it (`guard`) reads that, tells the
world by files, and when a phase lasts longer than its limit writes down who was where and ends the rank.
The guard imports nothing outside this package but the standard library: it must start at once and stay small.
"""
