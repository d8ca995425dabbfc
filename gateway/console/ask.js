// Requests to the node that serves this page.

const DEADLINE_MS = 10_000;

// A request that was refused or did not reach the node.
export class Refused extends Error {}

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: 'no-store', signal: AbortSignal.timeout(DEADLINE_MS) });
  } catch (error) {
    throw new Refused(error.name === 'TimeoutError' ? 'the node does not answer' : 'the node cannot be reached');
  }
  if (response.status === 401) throw new Refused('the console needs the password again: reload the page');
  return response;
}

// Calls a method of the server API.
export async function ask(method, body = {}) {
  const response = await fetched(`./api/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Tidegate-Console': '1' },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Refused(text.trim() || `the node answers with ${response.status}`);
  }
  if (answer.error) throw new Refused(`${answer.error.message} (${answer.error.code})`);
  return answer.result;
}

// Returns the node's metrics as text.
export async function metrics() {
  const response = await fetched('./metrics');
  if (!response.ok) throw new Refused(`the node answers with ${response.status}`);
  return response.text();
}

// Returns the permissions of the console.
export async function settings() {
  return (await fetched('./settings')).json();
}

// Returns whether the node is ready, with reasons if it is not.
export async function readiness() {
  return (await fetched('./readyz')).json();
}
