"""What people look at: pages rendered from the documents of `graphql/operations`."""
