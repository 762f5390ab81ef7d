// Keeps the page of batches as the server has it, without losing scroll, focus, selection or what was opened. Everything that it
// shows was written and escaped by the server.
"use strict";

const live = document.getElementById("live");
const parts = document.getElementById("parts");
const silence = 25000; // the server beats every 10 s
const retry = 3000;

let source = null;
let timer = 0;
let last = ""; // as of when the page is, in the server's words

function say(state, text) {
  live.classList.toggle("on", state === "on");
  live.classList.toggle("off", state === "off");
  const span = live.querySelector("span");
  if (span.textContent !== text) span.textContent = text;
}

function sayNotLive() {
  say("off", last ? "not live, last at " + last : "not live");
}

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

// morph makes an element as another one is and keeps the nodes that both have.
function morph(now, next) {
  for (const attribute of [...now.attributes]) {
    const opened = now.nodeName === "DETAILS" && attribute.name === "open";
    if (!next.hasAttribute(attribute.name) && !opened) now.removeAttribute(attribute.name);
  }
  for (const attribute of next.attributes) {
    const opened = now.nodeName === "DETAILS" && attribute.name === "open";
    if (now.getAttribute(attribute.name) !== attribute.value && !opened) now.setAttribute(attribute.name, attribute.value);
  }
  morphChildren(now, next);
}

function morphChildren(now, next) {
  const wanted = new Set([...next.children].map((child) => child.id).filter(Boolean));
  const kept = new Map();
  for (const child of [...now.children]) {
    if (!child.id) continue;
    if (wanted.has(child.id)) kept.set(child.id, child);
    else child.remove();
  }
  let at = now.firstChild;
  for (const child of [...next.childNodes]) {
    const same = child.id ? kept.get(child.id) : at && !at.id && at.nodeName === child.nodeName ? at : null;
    if (!same) {
      now.insertBefore(child, at);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else now.insertBefore(same, at);
    if (same.nodeType === Node.ELEMENT_NODE) morph(same, child);
    else if (same.data !== child.data) same.data = child.data;
  }
  while (at) {
    const after = at.nextSibling;
    at.remove();
    at = after;
  }
}

function ago(seconds) {
  if (seconds < 0) return "";
  if (seconds < 60) return "just now";
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, name] = units.find(([size]) => seconds >= size);
  return Math.floor(seconds / size) + " " + name + " ago";
}

// label says of each time how long ago it was; the time itself is its title.
function label() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(time.dateTime);
    const text = ago((Date.now() - at) / 1000);
    const exact = at.toISOString().replace("T", " ").slice(0, 19) + " UTC";
    if (time.title !== exact) time.title = exact;
    if (text && time.textContent !== text) time.textContent = text;
  }
}

function replacePart(html) {
  const next = parse(html).firstElementChild;
  const now = next && document.getElementById(next.id);
  if (now && parts.contains(now)) morph(now, next);
  label();
}

function watchSilence() {
  clearTimeout(timer);
  timer = setTimeout(reopen, silence, 0);
}

function close() {
  clearTimeout(timer);
  if (source) source.close();
  source = null;
}

function reopen(after) {
  close();
  sayNotLive();
  if (!document.hidden) timer = setTimeout(open, after);
}

function open() {
  close();
  source = new EventSource(live.dataset.events);
  source.addEventListener("page", (event) => {
    morphChildren(parts, parse(event.data));
    label();
  });
  source.addEventListener("part", (event) => replacePart(event.data));
  source.addEventListener("beat", (event) => {
    last = event.data;
    say("on", "live");
    watchSilence();
  });
  source.addEventListener("old", (event) => {
    last = event.data;
    sayNotLive();
    watchSilence();
  });
  // A browser gives up where it is refused, and waits for its own moment elsewhere; this one is always the page's.
  source.addEventListener("error", () => reopen(retry));
  watchSilence();
}

label();
setInterval(label, 15000);
if (live) {
  last = live.querySelector("span").textContent.replace("as of ", "").replace("never", "");
  // A browser has six connections to a server: a page that nobody sees gives its one back.
  document.addEventListener("visibilitychange", () => (document.hidden ? reopen(0) : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => event.persisted && open());
  open();
}
