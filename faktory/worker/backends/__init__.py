"""Where jobs run if not on their processors' threads: executors, and processes of their own."""
