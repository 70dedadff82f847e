"""What ``genarm simulate`` is fed with, and what it is held against: steps of a real engine, CPU beside them, real servers under
the simulated users."""
