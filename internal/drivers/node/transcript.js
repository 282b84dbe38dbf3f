// What the Node programs share: the transcript that they print.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

const skip = process.argv.slice(2)
let feature = ''

function print(line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

export function begin(driver) {
  const { version } = JSON.parse(readFileSync(new URL(`node_modules/${driver}/package.json`, import.meta.url)))
  print({ driver, version })
}

export function say(step, saw) {
  print({ feature, step, saw: saw ?? null })
}

// short is the text itself, or its length and checksum.
export function short(text) {
  if (text.length <= 200) return text
  return `${text.length} characters, sha256 ${createHash('sha256').update(text).digest('hex')}`
}

// show is a value and the type the driver made of it.
export function show(value) {
  if (value === null || value === undefined) return null
  if (Array.isArray(value)) return value.map(show)
  if (Buffer.isBuffer(value)) return `buffer ${short(value.toString('hex'))}`
  if (value instanceof Date) return `date ${isNaN(value) ? 'invalid' : value.toISOString()}`
  if (typeof value === 'object') return `object ${short(JSON.stringify(value))}`
  return `${typeof value} ${short(String(value))}`
}

// Rows beyond a hundred become a checksum.
export function showRows(rows) {
  const shown = rows.map((row) => Object.values(row).map(show))
  return shown.length <= 100 ? shown : [shown.length, short(JSON.stringify(shown))]
}

const fields = [
  'severity', 'severity_local', 'code', 'message', 'detail', 'hint', 'position', 'internalPosition', 'internal_position', 'internalQuery',
  'internal_query', 'where', 'schema', 'schema_name', 'table', 'table_name', 'column', 'column_name', 'dataType', 'type_name', 'constraint',
  'constraint_name', 'file', 'line', 'routine',
]

export function showError(error) {
  if (!error) return null
  const saw = { class: error.constructor.name }
  for (const field of fields) if (error[field] !== undefined) saw[field] = error[field]
  return saw
}

// Weir words a refused login as PostgreSQL does, without a line in PostgreSQL's source.
export function showLoginError(error) {
  const { class: name, severity, code, message, detail, hint } = showError(error)
  return { class: name, severity, code, message, detail, hint }
}

export async function features(all) {
  for (const [name, run] of Object.entries(all)) {
    if (skip.includes(name)) continue
    feature = name
    try {
      await run()
    } catch (error) {
      say('threw', [showError(error), error.stack?.split('\n').slice(0, 4)])
    }
  }
}

export const sleepers = "select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"

// waitFor calls until it gives want.
export async function waitFor(want, call) {
  const deadline = Date.now() + 10_000
  for (let got; (got = await call()) !== want; ) {
    if (Date.now() > deadline) throw new Error(`still ${got}, not ${want}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
