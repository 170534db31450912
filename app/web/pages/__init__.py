"""The HTML pages, rendered from the API's responses to the documents of `graphql/operations`."""
