// Runs Mercure's conformance tests with the installed Chromium, against a gateway at port 8000.

export default {
  testDir: '.',
  timeout: 20_000,
  workers: 2,
  use: {
    baseURL: 'http://127.0.0.1:8000/',
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-sync'],
    },
  },
  projects: [{ name: 'chromium' }],
};
