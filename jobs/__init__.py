"""The only writers: what happens on Mondays, every morning, and after a crash."""
