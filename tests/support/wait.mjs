// Waiting with a deadline, in place of sleeping.

const DEADLINE_MS = 15_000;

// Until `condition` answers something true, which is then answered.
export async function until(what, condition, deadline = DEADLINE_MS) {
  const end = Date.now() + deadline;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

// The next `event` of an emitter, with its argument.
export function next(emitter, event, deadline = DEADLINE_MS) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no '${event}' within ${deadline} ms`)), deadline);
    emitter.once(event, (context) => {
      clearTimeout(timer);
      resolve(context);
    });
  });
}
