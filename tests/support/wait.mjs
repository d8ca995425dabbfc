// Waits with a deadline, instead of sleeping.

const DEADLINE_MS = 15_000;

// Waits until `condition` returns something true, and returns it.
export async function until(what, condition, deadline = DEADLINE_MS) {
  const end = Date.now() + deadline;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

// Returns a promise of the next `event` of an emitter, with its argument.
export function next(emitter, event, deadline = DEADLINE_MS) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no '${event}' within ${deadline} ms`)), deadline);
    emitter.once(event, (context) => {
      clearTimeout(timer);
      resolve(context);
    });
  });
}
