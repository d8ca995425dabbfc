// Updates a part of the page in place: unchanged elements stay, and keep the focus and the selection.

const keyOf = (node) => node.dataset?.key;
const alike = (node, fresh) => node.nodeName === fresh.nodeName && keyOf(node) === keyOf(fresh);

// Makes `fresh` the children of `part`. An element with a `data-key` (a row, a button with an action) is reused only for one with the
// same key; elements without a key may be reused for others, so their listeners must not depend on what they show.
export function morph(part, fresh) {
  const wanted = new Set(fresh.map(keyOf).filter((key) => key !== undefined));
  const byKey = new Map([...part.childNodes].map((node) => [keyOf(node), node]));
  let at = part.firstChild;
  for (const child of fresh) {
    while (at && keyOf(at) !== undefined && !wanted.has(keyOf(at))) at = dropped(at);
    const key = keyOf(child);
    const match = key === undefined ? at : byKey.get(key);
    if (!match || !alike(match, child)) {
      part.insertBefore(child, at);
      continue;
    }
    byKey.delete(key);
    if (match === at) at = at.nextSibling;
    else part.insertBefore(match, at);
    update(match, child);
  }
  while (at) at = dropped(at);
}

function dropped(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function update(node, fresh) {
  if (node.isEqualNode(fresh)) return;
  if (node.nodeType !== Node.ELEMENT_NODE) {
    node.data = fresh.data;
    return;
  }
  for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name)) node.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  morph(node, [...fresh.childNodes]);
}
