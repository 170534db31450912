// Updates an open page when the record changes: the new content replaces the old one, without a
// reload. Every page can be read without this script.
const streamPath = "/live/journal";
// All times are in milliseconds.
const overdueAfter = 30 * 60_000; // how late figures may be before they are called overdue
const pollInterval = 60_000; // between two requests for the page while the stream is refused
const messageTime = 12_000; // how long a message is shown
let stream;
let pollTimer = 0;

const main = () => document.getElementById("main");
// The number of the journal's newest entry on this page; -1 for a page that does not follow it.
const shownSeq = () => Number(main().dataset.seq ?? -1);

// Adds the distance to each time in the future, as in "(in 3 hours)", or "(overdue)". The server
// cannot do this, because a cached page must not depend on the time of day.
function showDistances() {
  for (const time of document.querySelectorAll("time[data-ahead]")) {
    const ahead = new Date(time.dateTime) - Date.now();
    const isOverdue = "due" in time.dataset && ahead < -overdueAfter;
    const words = isOverdue ? "overdue" : distance(ahead);
    const next = time.nextElementSibling;
    let label = next?.classList.contains("ahead") ? next : null;
    if (!words) {
      label?.remove();
      continue;
    }
    if (!label) {
      label = document.createElement("span");
      label.className = "ahead";
      time.after(label);
    }
    label.textContent = ` (${words})`;
  }
}

function distance(ms) {
  // Not `ms <= 0`: the distance to an invalid date is not a number.
  if (!(ms > 0)) return "";
  const format = new Intl.RelativeTimeFormat("en", { numeric: "always" });
  const minutes = Math.ceil(ms / 60_000);
  if (minutes < 90) return format.format(minutes, "minute");
  const hours = Math.round(minutes / 60);
  if (hours < 36) return format.format(hours, "hour");
  return format.format(Math.round(hours / 24), "day");
}

// Writes the address of this service into commands that contain it.
function showOrigin() {
  for (const element of document.querySelectorAll("[data-origin]")) {
    element.textContent = location.origin;
  }
}

// Replaces the content of the page by its current version. The scroll positions, the focus and the
// opened details stay as they are.
async function refresh() {
  const options = { headers: { accept: "text/html" }, cache: "no-cache" };
  const response = await fetch(location.href, options);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.getElementById("main");
  if (!fresh || Number(fresh.dataset.seq) <= shownSeq()) return;

  const openIds = [...main().querySelectorAll("details[open][id]")].map((details) => details.id);
  const focus = position(document.activeElement);
  const { scrollX, scrollY } = window;
  const scrollLefts = [...main().querySelectorAll(".scroll")].map((element) => element.scrollLeft);
  const news = newLines(main().dataset.news, fresh.dataset.news);

  for (const id of openIds) fresh.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  main().replaceWith(fresh);
  document.title = page.title;
  fresh.querySelectorAll(".scroll").forEach((element, number) => {
    element.scrollLeft = scrollLefts[number] ?? 0;
  });
  elementAt(focus)?.focus({ preventScroll: true });
  window.scrollTo(scrollX, scrollY);
  showDistances();
  showOrigin();
  if (news) showMessage(`Updated. ${news}`);
}

// Returns the lines of the news that were not there before. A page of several series has a line for
// each of them.
function newLines(before, after) {
  const known = new Set(before.split("\n"));
  return after.split("\n").filter((line) => !known.has(line)).join(" ");
}

// Returns the tag of an element, and its number among the elements with this tag. The element with
// the same position in the new content gets the focus.
function position(element) {
  if (!element || !main().contains(element) || element === main()) return null;
  const tag = element.tagName;
  return { tag, number: [...main().getElementsByTagName(tag)].indexOf(element) };
}

function elementAt(at) {
  return at && main().getElementsByTagName(at.tag)[at.number];
}

function showMessage(words) {
  const message = document.getElementById("message");
  message.textContent = words;
  setTimeout(() => {
    // A newer message has a timer of its own.
    if (message.textContent === words) message.textContent = "";
  }, messageTime);
}

// An update that fails is not shown to the reader: the next event or the next poll tries again.
function tryRefresh() {
  return refresh().catch(() => {});
}

function connect() {
  if (stream || shownSeq() < 0) return;
  stream = new EventSource(`${streamPath}?after=${shownSeq()}`);
  stream.addEventListener("entry", () => void tryRefresh());
  stream.addEventListener("error", () => {
    // After a lost connection, the browser connects again by itself. After a refusal it does not.
    if (stream?.readyState !== EventSource.CLOSED) return;
    disconnect();
    pollTimer = setTimeout(() => void tryRefresh().finally(connect), pollInterval);
  });
}

function disconnect() {
  stream?.close();
  stream = undefined;
  clearTimeout(pollTimer);
}

showDistances();
showOrigin();
setInterval(showDistances, 30_000);
connect();
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => event.persisted && connect());
// A page in the background needs no stream.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
