"""Alpha Monday: a public track record of AI stock picks."""
