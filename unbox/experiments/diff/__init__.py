"""What a training changed: systems compared by the features that are active in the same pictures."""
