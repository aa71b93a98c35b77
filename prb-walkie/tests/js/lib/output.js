'use strict'

// One JSON line per event, on stdout.
const emit = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')

function fail (error) {
  process.stderr.write(`${error.stack || error}\n`)
  process.exit(1)
}

// 10th percentile, median, 99th percentile and longest of durations in milliseconds.
function summary (durations, elapsed) {
  const sorted = [...durations].sort((a, b) => a - b)
  const at = share => Number(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))].toFixed(3))
  return {
    calls: sorted.length,
    perSecond: Number((sorted.length / elapsed * 1000).toFixed(1)),
    p10Ms: at(0.1),
    medianMs: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1)
  }
}

// Runs `once` from `parallel` lanes for `seconds`, and sums up.
async function measure ({ parallel, seconds }, lane) {
  const durations = []
  const start = performance.now()
  const end = start + seconds * 1000
  await Promise.all(Array.from({ length: parallel }, async (_, number) => {
    const once = await lane(number)
    while (performance.now() < end) {
      const before = performance.now()
      await once()
      durations.push(performance.now() - before)
    }
  }))
  return summary(durations, performance.now() - start)
}

module.exports = { emit, fail, measure }
