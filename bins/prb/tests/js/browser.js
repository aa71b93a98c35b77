// Controls Chromium by lines on standard input: {"call":"page's method","args":[…]} in, {"result":…} or {"error":…} out.
// Usage: node browser.js CHROMIUM
"use strict";

const { chromium } = require("playwright-core");
const readline = require("readline");

const answer = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function main() {
  const browser = await chromium.launch({
    executablePath: process.argv[2],
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const complaints = [];
  page.setDefaultTimeout(60000);
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("dialog", (dialog) => dialog.accept());
  const own = {
    complaints: () => complaints.splice(0),
    // The page's own waitForFunction evaluates text in the page, which its content security policy forbids.
    until: async (expression) => {
      for (const start = Date.now(); Date.now() - start < 60000; ) {
        if (await page.evaluate(expression).catch(() => false)) return;
        await new Promise((done) => setTimeout(done, 50));
      }
      throw new Error("not true within a minute");
    },
  };
  // A navigation that the page's own script has just begun ends this one: a user would enter the address again.
  own.goto = async (url) => {
    for (let left = 5; ; left--) {
      try {
        return void (await page.goto(url));
      } catch (error) {
        if (left === 0 || !String(error.message).includes("interrupted by another navigation")) throw error;
      }
    }
  };
  answer({ result: "ready" });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { call, args } = JSON.parse(line);
    if (call === "end") break;
    try {
      const result = await (own[call] ?? page[call].bind(page))(...args);
      const plain = call === "evaluate" || call in own || typeof result !== "object";
      answer({ result: plain ? result ?? null : null });
    } catch (error) {
      answer({ error: String(error.message) });
    }
  }
  await browser.close();
  process.exit();
}

main().catch((error) => {
  answer({ error: String(error.message) });
  process.exitCode = 1;
});
