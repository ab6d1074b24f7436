"""Objectives: free functions from networks and batches to losses, with stated shapes."""
