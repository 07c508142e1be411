"""Getting data sets onto the disk, and checking what is there."""
