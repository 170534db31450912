// Opens GraphiQL with our documents as its tabs, each with variables that the record has an answer to. Until it is there,
// or when it does not come, the page says so.
const place = document.getElementById("graphiql");
const told = document.getElementById("status");
let isOpen = false;

function opened() {
  isOpen = true;
  told.hidden = true;
  place.setAttribute("aria-busy", "false");
}

function failed() {
  told.hidden = false;
  place.setAttribute("aria-busy", "false");
  for (const line of told.children) line.hidden = line.id !== (isOpen ? "stopped" : "failed");
}

async function newest() {
  const query = "{ batches { nodes { runDate picks { id } } } }";
  const answer = await fetch("/graphql", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ query }),
    signal: AbortSignal.timeout(2000), // GraphiQL opens without variables rather than late
  });
  const batches = (await answer.json()).data.batches.nodes;
  return batches.find((batch) => batch.picks.length > 0) ?? batches[0];
}

function weeks(batch, count) {
  if (!batch) return undefined;
  const day = new Date(batch.runDate);
  day.setUTCDate(day.getUTCDate() + 7 * count);
  return day.toISOString().slice(0, 10);
}

async function start() {
  const batch = await newest().catch(() => undefined);
  const variables = {
    LatestBatch: { series: "main" },
    BatchOn: { runDate: batch?.runDate },
    PickStory: { id: batch?.picks[0]?.id },
    Batches: { first: 5 },
    Journal: { first: 20 },
    TrackRecord: { series: "main" },
    Chart: { runDate: batch?.runDate },
    Export: { first: 2 },
    Feed: { first: 5 },
    Front: { series: "main" },
    Head: {},
    Record: { series: "main" },
    History: { first: 5 },
    Monday: { runDate: batch?.runDate, before: weeks(batch, -1), after: weeks(batch, 1) },
  };
  const documents = Object.entries(JSON.parse(place.dataset.documents));
  const props = {
    fetcher: GraphiQL.createFetcher({ url: "/graphql" }),
    defaultTabs: documents.map(([name, query]) => ({
      query,
      variables: variables[name] && JSON.stringify(variables[name], null, 2),
    })),
    defaultEditorToolsVisibility: "variables",
    isHeadersEditorEnabled: false,
  };
  function Page() {
    React.useEffect(opened, []);
    return React.createElement(GraphiQL, props);
  }
  ReactDOM.createRoot(place).render(React.createElement(Page));
}

// React empties the page when one of its parts throws.
addEventListener("error", () => setTimeout(() => place.childElementCount === 0 && failed()));

if (window.React && window.ReactDOM && window.GraphiQL) start().catch(failed);
else failed();
