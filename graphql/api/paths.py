"""The paths of the API. The table of all paths of the service, app/web/routes.py, imports them."""

GRAPHQL = "/graphql"
GRAPHIQL_FILES = f"{GRAPHQL}/files"
