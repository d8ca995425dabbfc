// A server on uWebSockets, which is built into Bun: native topics, to which one call publishes.
// Usage: bun uwebsockets.js PORT
Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.argv[2]),
  async fetch(request, server) {
    if (request.method === 'POST') {
      server.publish(new URL(request.url).pathname.slice('/publish/'.length), await request.text());
      return new Response('{}');
    }
    return server.upgrade(request) ? undefined : new Response('no', { status: 400 });
  },
  websocket: {
    perMessageDeflate: process.env.DEFLATE === '1',
    // The gateway's default limit of unsent bytes for one client.
    backpressureLimit: 1 << 20,
    message(socket, message) {
      const { subscribe } = JSON.parse(message);
      socket.subscribe(subscribe);
      socket.send(JSON.stringify({ subscribed: subscribe }));
    },
  },
});
