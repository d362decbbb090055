"""What is said about a network: comparisons, costs, pictures, the configuration."""
