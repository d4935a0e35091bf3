// The build: one page with relative addresses, so that it works behind any prefix, and file names without
// anything of the machine in them.
import { defineConfig } from 'vite';

export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0, // data: addresses would need a wider Content-Security-Policy
    reportCompressedSize: false,
  },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  server: {
    // `npm run dev` beside a running server.
    proxy: { '/v1': 'http://127.0.0.1:8000', '/metrics': 'http://127.0.0.1:8000' },
  },
  test: { include: ['src/**/*.test.ts'], pool: 'threads', isolate: false, maxWorkers: 1 },
} as Parameters<typeof defineConfig>[0]);
