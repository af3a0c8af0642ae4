"""What differs between machines: run by hand, recorded with the hardware beside it."""
