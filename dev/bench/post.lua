-- wrk's part: posts one file's JSON again and again. BODY=request.json wrk -s dev/bench/post.lua http://127.0.0.1:8080/graphql
local file = assert(io.open(os.getenv("BODY")))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
