"""What methods were allowed to see and what they did, and whether that makes a fair comparison."""
