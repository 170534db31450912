// While a page is open it follows the record: what is new takes the place of what was, without a reload. Everything can
// be read without this script.
const stream = "/live/journal";
const grace = 30 * 60_000; // milliseconds until figures that were due are called overdue
const pause = 60_000; // milliseconds between looks where no stream can be had
let source;
let looking = 0;

const main = () => document.getElementById("main");
const seen = () => Number(main().dataset.seq ?? -1);

// Times to come are told as distances too, and figures that are late as overdue; the page itself says nothing that hangs
// on the time of day.
function tellTimes() {
  for (const time of document.querySelectorAll("time[data-ahead]")) {
    const ahead = new Date(time.dateTime) - Date.now();
    const late = "due" in time.dataset && ahead < -grace;
    const words = late ? "overdue" : distance(ahead);
    let told = time.nextElementSibling?.classList.contains("ahead") ? time.nextElementSibling : null;
    if (!words) {
      told?.remove();
      continue;
    }
    if (!told) {
      told = document.createElement("span");
      told.className = "ahead";
      time.after(told);
    }
    told.textContent = ` (${words})`;
  }
}

function distance(ms) {
  if (!(ms > 0)) return "";
  const told = new Intl.RelativeTimeFormat("en", { numeric: "always" });
  const minutes = Math.ceil(ms / 60_000);
  if (minutes < 90) return told.format(minutes, "minute");
  const hours = Math.round(minutes / 60);
  return hours < 36 ? told.format(hours, "hour") : told.format(Math.round(hours / 24), "day");
}

function tellOrigin() {
  for (const place of document.querySelectorAll("[data-origin]")) place.textContent = location.origin;
}

// Puts the page as it is now in place of what is shown; where the reader is, and what is open, stays.
async function renew() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-cache" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("main");
  if (!fresh || Number(fresh.dataset.seq) <= seen()) return;
  const open = [...main().querySelectorAll("details[open][id]")].map((one) => one.id);
  const focus = place(document.activeElement);
  const { scrollX, scrollY } = window;
  const shifted = [...main().querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  for (const id of open) fresh.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  const news = fresh.dataset.news !== main().dataset.news;
  main().replaceWith(fresh);
  document.title = page.title;
  fresh.querySelectorAll(".scroll").forEach((one, at) => (one.scrollLeft = shifted[at] ?? 0));
  find(focus)?.focus({ preventScroll: true });
  window.scrollTo(scrollX, scrollY);
  tellTimes();
  tellOrigin();
  if (news) say(`Updated. ${fresh.dataset.news}`);
}

// Which of its kind an element of the page is.
function place(element) {
  if (!element || !main().contains(element) || element === main()) return null;
  const kind = element.tagName;
  return { kind, number: [...main().getElementsByTagName(kind)].indexOf(element) };
}

const find = (at) => at && main().getElementsByTagName(at.kind)[at.number];

function say(words) {
  const said = document.getElementById("said");
  said.textContent = words;
  setTimeout(() => said.textContent === words && (said.textContent = ""), 12_000);
}

function follow() {
  if (source || seen() < 0) return;
  source = new EventSource(`${stream}?after=${seen()}`);
  source.addEventListener("entry", () => void renew().catch(() => {}));
  source.addEventListener("error", () => {
    if (source?.readyState !== EventSource.CLOSED) return; // it tries again by itself
    leave();
    looking = setTimeout(() => void renew().catch(() => {}).finally(follow), pause);
  });
}

function leave() {
  source?.close();
  source = undefined;
  clearTimeout(looking);
}

tellTimes();
tellOrigin();
setInterval(tellTimes, 30_000);
follow();
addEventListener("pagehide", leave);
addEventListener("pageshow", (event) => event.persisted && follow());
document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
