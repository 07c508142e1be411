"""The mathematics of each paper, plain and slow, that the shipped methods are held against."""
