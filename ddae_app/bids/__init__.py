"""Reading a BIDS dataset and writing a derivative."""
