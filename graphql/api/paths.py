"""The API's own paths. The table of all paths of the service, app/web/routes.py, takes them from here."""

GRAPHQL = "/graphql"
GRAPHIQL_FILES = f"{GRAPHQL}/files"
