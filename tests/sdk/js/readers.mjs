// Readers of server-sent events, each used in its usual way, with one format for the records of all.

import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSource as EventSource4 } from 'eventsource-4';
import { EventSource as EventSource5 } from 'eventsource-5';
import { createEventSource } from 'eventsource-client';

// fetch-event-source is made for pages: it uses these two for the page's visibility, and for timers.
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window ??= globalThis;

// Each reader returns its record: events as { type, data, id }, how often the stream began, and how it ended.
export const READERS = {
  'eventsource 4': (t, url, channels) => standard(EventSource4, t, url, channels),
  'eventsource 5': (t, url, channels) => standard(EventSource5, t, url, channels),
  'eventsource-client': (t, url) => {
    const told = { events: [], begun: 0, refused: 0, isClosed: () => source.readyState === 'closed' };
    const source = createEventSource({
      url,
      onConnect: () => (told.begun += 1),
      onMessage: ({ event = 'message', data, id }) => told.events.push({ type: event, data, id }),
      fetch: async (...request) => {
        const response = await fetch(...request);
        if (response.status !== 200) told.refused = response.status;
        return response;
      },
    });
    t.after(() => source.close());
    return told;
  },
  'fetch-event-source': (t, url) => {
    const told = { events: [], begun: 0, refused: 0 };
    const stop = new AbortController();
    t.after(() => stop.abort());
    class Final extends Error {}
    const reading = fetchEventSource(url, {
      signal: stop.signal,
      openWhenHidden: true,
      async onopen(response) {
        if (response.status === 200) told.begun += 1;
        else throw Object.assign(new Final(), { status: (told.refused = response.status) });
      },
      onmessage: ({ event, data, id }) => told.events.push({ type: event || 'message', data, id }),
      // The library reconnects after the end of a stream only if that is an error.
      onclose() {
        throw new Error('ended');
      },
      onerror(error) {
        if (error instanceof Final) throw error;
        return 50;
      },
    });
    reading.catch(() => {});
    return told;
  },
};

function standard(Source, t, url, channels = []) {
  const told = { events: [], begun: 0, refused: 0, isClosed: () => source.readyState === Source.CLOSED };
  const source = new Source(url);
  t.after(() => source.close());
  const note = ({ type, data, lastEventId }) => told.events.push({ type, data, id: lastEventId });
  for (const type of ['message', 'subscribed', 'disconnect', ...channels]) source.addEventListener(type, note);
  source.addEventListener('open', () => (told.begun += 1));
  source.addEventListener('error', ({ code }) => code && (told.refused = code));
  return told;
}
