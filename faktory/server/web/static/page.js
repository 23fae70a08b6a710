// Makes pages live, ticks all boxes at once, asks before what cannot be undone, and has "/" for the
// search. Every page is whole without this script.
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

document.documentElement.classList.add("script");

// An update: <main> becomes like a new one. What the person did stays, because elements stay:
// ticked boxes, typed text, the focus, a selection, what is open, how far something is scrolled.

const ours = { DETAILS: "open", BUTTON: "disabled" }; // attributes that change only in this page

function key(node) {
  return (node.dataset && node.dataset.key) || node.id || "";
}

function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.isEqualNode(fresh)) return;
  const own = ours[old.nodeName];
  for (const { name } of [...old.attributes])
    if (name !== own && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (name !== own && old.getAttribute(name) !== value) old.setAttribute(name, value);
  patchChildren(old, fresh);
}

function patchChildren(old, fresh) {
  const kept = new Set([...fresh.children].map(key));
  const keyed = new Map();
  for (const child of [...old.children]) {
    const name = key(child);
    if (name && !kept.has(name)) child.remove();
    else if (name) keyed.set(name, child);
  }
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const name = key(next);
    let match = name ? keyed.get(name) : place;
    keyed.delete(name); // a queue may have a jid twice
    while (match && !name && (key(match) || match.nodeName !== next.nodeName))
      match = match.nextSibling;
    if (!match || match.nodeName !== next.nodeName) {
      old.insertBefore(next, place);
      continue;
    }
    if (match === place) place = place.nextSibling;
    else old.insertBefore(match, place);
    patch(match, next);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function show(html) {
  const fresh = find("main", new DOMParser().parseFromString(html, "text/html"));
  const main = find("main");
  if (!fresh) return;
  const focused = document.activeElement;
  const inside = main.contains(focused);
  patch(main, fresh);
  if (inside && document.activeElement !== focused)
    (main.contains(focused) ? focused : main).focus({ preventScroll: true });
  for (const count of all(".pages [data-count]")) {
    const text = main.dataset[count.dataset.count];
    if (text !== undefined && count.textContent !== text) count.textContent = text;
  }
  showTicks();
}

// Live: the page's own address as a stream of such updates, while the page can be seen.

const state = find("#live");
let stream = null;
let timer = 0;
let wait = 1;

function say(text, lost) {
  state.textContent = text;
  state.classList.toggle("lost", lost);
  state.hidden = false;
}

function disconnect() {
  clearTimeout(timer);
  if (stream) stream.close();
  stream = null;
}

function connect() {
  disconnect();
  if (document.hidden || !("live" in find("main").dataset)) return;
  stream = new EventSource(location.href);
  stream.onmessage = (event) => {
    wait = 1;
    say("live", false);
    show(event.data);
  };
  stream.onerror = () => {
    disconnect();
    say("not connected, trying again", true);
    timer = setTimeout(connect, 1000 * wait * (0.75 + Math.random() / 2));
    wait = Math.min(2 * wait, 30);
  };
}

document.addEventListener("visibilitychange", connect);
addEventListener("pagehide", disconnect);
addEventListener("pageshow", connect);

// Boxes: one ticks all, Shift ticks a range, buttons for ticked rows need one.

const boxes = (form) => all("tbody .tick input", form);
let last = null;

function showTicks() {
  for (const form of all("form.ticked")) {
    const count = boxes(form).filter((box) => box.checked).length;
    const head = find("thead .tick input", form);
    if (head) {
      head.checked = count > 0 && count === boxes(form).length;
      head.indeterminate = count > 0 && !head.checked;
    }
    for (const button of all(".chosen button", form)) button.disabled = count === 0;
    const label = find(".chosen output", form);
    if (label) label.textContent = count === 0 ? label.dataset.none : `${count} ticked:`;
  }
}

document.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches("form.ticked .tick input")) return;
  const list = boxes(box.form);
  if (box.closest("thead")) for (const each of list) each.checked = box.checked;
  else if (event.shiftKey && list.includes(last)) {
    const [from, to] = [list.indexOf(last), list.indexOf(box)].sort((a, b) => a - b);
    for (const each of list.slice(from, to + 1)) each.checked = box.checked;
  }
  last = box;
  showTicks();
});

// Questions: a button with data-confirm sends its form only after "yes". "#" is how many are ticked.

document.addEventListener("submit", (event) => {
  const question = event.submitter && event.submitter.dataset.confirm;
  const count = boxes(event.target).filter((box) => box.checked).length;
  if (question && !confirm(count ? question.replace("#", count) : question)) event.preventDefault();
});

// Keys, and what the last action did: said to screen readers, which skip what was there before.

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  const search = find("#q");
  if (event.key !== "/" || typing || !search || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  search.focus();
  search.select();
});

const address = new URL(location.href);
if (address.searchParams.has("done")) {
  address.searchParams.delete("done");
  // A reload does not say it again. Without the origin: the page's may have a password in it.
  history.replaceState(null, "", address.pathname + address.search);
}
const said = find("#said");
if (said.textContent.trim()) {
  const text = said.textContent;
  said.textContent = "";
  setTimeout(() => (said.textContent = text), 100);
}

showTicks();
