// Imports files into the real chrome://tracing model in headless Chromium and prints one JSON line for each.
// usage: node chrome_viewer.js PAGE CHROMIUM FILE...
const { chromium } = require('playwright-core');
const fs = require('fs');
(async () => {
  const [page, executablePath, ...files] = process.argv.slice(2);
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
  });
  const tab = await browser.newPage();
  await tab.goto(page, { waitUntil: 'commit' });
  await tab.waitForFunction(() => typeof tr !== 'undefined' && tr.importer && tr.Model, { timeout: 60000 });
  for (const file of files) {
    const packed = file.endsWith('.gz');
    const seen = await Promise.race([tab.evaluate(([base64, packed]) => {
      try {
        const binary = atob(base64);
        let data;
        if (packed) {
          const bytes = new Uint8Array(binary.length);
          for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
          data = bytes.buffer;
        } else {
          data = new TextDecoder().decode(Uint8Array.from(binary, (c) => c.charCodeAt(0)));
        }
        const model = new tr.Model();
        new tr.importer.Import(model).importTraces([data]);
        const seen = { slices: 0, async: 0, counters: 0, instants: (model.instantEvents || []).length,
          processes: {}, threads: [], warnings: [] };
        for (const process of Object.values(model.processes)) {
          seen.processes[process.pid] = process.name || null;
          seen.instants += (process.instantEvents || []).length;
          for (const counter of Object.values(process.counters)) seen.counters += counter.timestamps.length;
          for (const thread of Object.values(process.threads)) {
            if (thread.name) seen.threads.push(thread.name);
            seen.slices += thread.sliceGroup.slices.length;
            for (const top of thread.asyncSliceGroup.slices) {
              seen.async += 1 + [...top.enumerateAllDescendents()].length;
            }
          }
        }
        const known = (w) => !w.message.startsWith('Unrecognized metadata name: prismtop');
        seen.warnings = model.importWarnings.filter(known).map((w) => w.message.slice(0, 160)).slice(0, 5);
        return seen;
      } catch (error) {
        return { error: String(error && error.message || error).slice(0, 200) };
      }
    }, [fs.readFileSync(file).toString('base64'), packed]),
    new Promise((done) => setTimeout(() => done({ error: 'no answer in 60 s' }), 60000))]);
    console.log(JSON.stringify(seen));
  }
  await browser.close();
  process.exit(0);  // not when the last timer fires
})().catch((error) => { console.error(error); process.exit(1); });
