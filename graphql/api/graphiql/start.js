// Opens GraphiQL with our documents as its tabs, each with variables for which the record has data.
// Until GraphiQL is open, and if it does not load, the page shows a status line.
const container = document.getElementById("graphiql");
const statusLines = document.getElementById("status");
let isOpen = false;

function showGraphiQL() {
  isOpen = true;
  statusLines.hidden = true;
  container.setAttribute("aria-busy", "false");
}

function showFailure() {
  const shown = isOpen ? "stopped" : "failed";
  statusLines.hidden = false;
  container.setAttribute("aria-busy", "false");
  for (const line of statusLines.children) line.hidden = line.id !== shown;
}

async function fetchExamples() {
  const query = "{ series { name } batches { nodes { runDate picks { id } } } }";
  const answer = await fetch("/graphql", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ query }),
    // If the API is slow, GraphiQL opens without variables rather than late.
    signal: AbortSignal.timeout(2000),
  });
  const data = (await answer.json()).data;
  const batches = data.batches.nodes;
  return {
    batch: batches.find((batch) => batch.picks.length > 0) ?? batches[0],
    names: data.series.map((series) => series.name),
  };
}

async function start() {
  const { batch, names } = await fetchExamples().catch(() => ({ names: [] }));
  const variables = {
    LatestBatch: { series: "main" },
    BatchOn: { runDate: batch?.runDate },
    PickStory: { id: batch?.picks[0]?.id },
    Batches: { first: 5 },
    Journal: { first: 20 },
    TrackRecord: { series: "main" },
    AllSeries: {},
    OneSeries: { name: names[0] ?? "main", first: 10 },
    Comparison: { a: names[0] ?? "main", b: names[1] ?? "dice" },
  };
  const documents = Object.entries(JSON.parse(container.dataset.documents));
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
    React.useEffect(showGraphiQL, []);
    return React.createElement(GraphiQL, props);
  }
  ReactDOM.createRoot(container).render(React.createElement(Page));
}

// React empties the container when a component throws an error.
addEventListener("error", () =>
  setTimeout(() => {
    if (container.childElementCount === 0) showFailure();
  }),
);

if (window.React && window.ReactDOM && window.GraphiQL) start().catch(showFailure);
else showFailure();
