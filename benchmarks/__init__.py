"""Speed, memory and quality of ddae-app; the head of each module says how to run it."""
