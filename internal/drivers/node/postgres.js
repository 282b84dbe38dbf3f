// postgres.js against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript.
import postgres from 'postgres'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { begin, features, say, short, show, showError, showLoginError, showRows, sleepers, waitFor } from './transcript.js'

// open gives a client of one connection, so that the order of what happens is ours.
const ssl = process.env.PGSSLMODE === 'require' ? 'require' : false
const open = (options = {}) => postgres({ max: 1, ssl, onnotice: (notice) => say('notice', notice), ...options })

function showResult(result) {
  if (Array.isArray(result) && Array.isArray(result[0]) && result.command === undefined) return result.map(showResult)
  return {
    command: result.command,
    count: result.count,
    columns: result.columns?.map((c) => [c.name, c.type]),
    rows: showRows([...result]),
  }
}

async function run(step, query) {
  try {
    say(short(step), showResult(await query))
  } catch (error) {
    say(short(step), showError(error))
  }
}

async function connect() {
  const sql = open()
  await run('select', sql`select 1 as one`)
  say('parameters', sql.parameters)
  await sql.end()
  const wrong = open({ password: 'wrong' })
  await wrong`select 1`.catch((error) => say('wrong password', showLoginError(error)))
  await wrong.end()
}

async function startup() {
  const sql = open({
    connection: { application_name: "drivers' tests", TimeZone: 'Asia/Kathmandu', DateStyle: 'German', statement_timeout: 54321, search_path: 'pg_catalog, public' },
  })
  for (const name of ['application_name', 'timezone', 'datestyle', 'statement_timeout', 'search_path']) await run(name, sql.unsafe(`show ${name}`))
  await run('rendered', sql`select (timestamptz '2024-02-29 12:34:56+00')::text`)
  await sql.end()
}

async function types() {
  const sql = open()
  for (const expr of [
    'true', '1::int2', '3::int8', '0.1::float8', '12345.678900::numeric', "'text'::text", "'\\x00ff'::bytea", "'2024-02-29 12:34:56.789'::timestamptz",
    "'2024-02-29'::date", "'1 mon 2 days 03:04:05'::interval", "'00112233-4455-6677-8899-aabbccddeeff'::uuid", `'{"a": [1, null]}'::json`,
    `'{"a": [1, null]}'::jsonb`, "'{1,NULL,3}'::int4[]", `'{{a,"b c"},{NULL,"d"}}'::text[]`, "'[1,10)'::int4range", 'null::text', "'grüße 🌊'",
  ]) {
    await run(`simple ${expr}`, sql.unsafe(`select ${expr} as v`))
    await run(`prepared ${expr}`, sql.unsafe(`select ${expr} as v, $1::text as t`, ['x'], { prepare: true }))
  }
  for (const [name, value] of Object.entries({ null: null, true: true, number: 42, string: "o'clock", buffer: Buffer.from([0, 255]), date: new Date(0) })) {
    await run(`parameter ${name}`, sql`select ${value}::text as v`)
  }
  await run('json', sql`select ${sql.json({ a: [1, null] })} as v`)
  await run('array', sql`select ${sql.array([1, 2, 3])} as v`)
  await sql.end()
}

async function queries(sql) {
  await run('setup', sql.unsafe('drop table if exists pjs_q; create table pjs_q (id int primary key, name text check (name <> $$bad$$))'))
  for (let i = 0; i < 8; i++) await run('insert', sql`insert into pjs_q ${sql({ id: i, name: `name ${i}` })}`)
  for (let i = 0; i < 8; i++) await run('select', sql`select id, name from pjs_q where id between ${i} and ${i + 1} order by id`)
  await run('several rows', sql`insert into pjs_q ${sql([{ id: 20, name: 'a' }, { id: 21, name: null }])} returning *`)
  await run('update', sql`update pjs_q set ${sql({ name: 'new' })} where id in ${sql([1, 2, 3])} returning id`)
  await run('no rows', sql`select * from pjs_q where id = ${-1}`)
  await run('error: unique', sql`insert into pjs_q values (${1})`)
  await run('error: check', sql`insert into pjs_q values (${50}, 'bad')`)
  await run('error: division', sql`select 1 / ${0}::int`)
  await run('error after rows', sql`select 1 / (3 - g) from generate_series(1, ${5}::int) g`)
  await run('error: syntax', sql`selec ${0}`)
  await run('error: no such table', sql`select * from nowhere where x = ${1}`)
  await run('goes on', sql`select count(*) from pjs_q`)
  say('describe', await sql`select id, name from pjs_q where id = ${1}`.describe().then((d) => [d.types, d.columns.map((c) => [c.name, c.type])]))
  say('raw', (await sql`select id, name from pjs_q where id < ${3} order by id`.raw()).map((row) => row.map((v) => v?.toString())))
  say('values', await sql`select id, name from pjs_q where id < ${3} order by id`.values().then((rows) => rows.map(show)))

  // Sent at once, without waiting for the answers: a pipeline with a Sync behind each query.
  const many = Array.from({ length: 60 }, (_, i) => (i === 20 ? sql`select 1 / ${0}::int` : sql`select ${i}::int as n`).catch((error) => error))
  say('pipelined', (await Promise.all(many)).map((r) => (r instanceof Error ? r.code : r[0].n)))
  const different = Array.from({ length: 30 }, (_, i) => sql.unsafe(`select ${i} as n, $1::int as m`, [i], { prepare: true }))
  say('pipelined, each another statement', (await Promise.all(different)).map((r) => [r[0].n, r[0].m]))
}

async function prepared() {
  const sql = open()
  await queries(sql)
  await sql.end()
}

async function unprepared() {
  const sql = open({ prepare: false })
  await queries(sql)
  await sql.end()
}

async function multi() {
  const sql = open()
  for (const text of [
    "select 1 as a; select 'x' as b, 2 as c; select where false",
    'drop table if exists pjs_m; create table pjs_m (n int); insert into pjs_m select generate_series(1, 5); select sum(n) from pjs_m',
    'insert into pjs_m values (6); select 1/0; insert into pjs_m values (7)',
    'select count(*) from pjs_m',
  ]) {
    await run(text, sql.unsafe(text))
  }
  await run('simple()', sql`select 1 as a; select 2 as b`.simple())
  await sql.end()
}

async function transactions() {
  const sql = open()
  await run('setup', sql.unsafe('drop table if exists pjs_t; create table pjs_t (n int primary key)'))
  await sql.begin(async (tx) => {
    await run('insert', tx`insert into pjs_t values (${1})`)
    await tx.savepoint(async (s) => {
      await run('insert', s`insert into pjs_t values (${2})`)
      throw new Error('back to the savepoint')
    }).catch((error) => say('savepoint', error.message))
    await run('count', tx`select count(*) from pjs_t`)
  })
  await sql.begin('isolation level serializable read only', async (tx) => {
    await run('isolation', tx`show transaction_isolation`)
    await tx`insert into pjs_t values (${3})`
  }).catch((error) => say('read-only', showError(error)))
  await sql.begin((tx) => [tx`insert into pjs_t values (${4})`, tx`insert into pjs_t values (${5})`, tx`insert into pjs_t values (${4})`])
    .catch((error) => say('pipelined in a transaction', showError(error)))
  await sql.begin((tx) => [tx`insert into pjs_t values (${6})`, tx`select count(*) from pjs_t`]).then((all) => say('all', all.map(showResult)))
  await run('count', sql`select count(*) from pjs_t`)
  await sql.end()
}

async function cursors() {
  const sql = open()
  const sizes = []
  await sql`select g, repeat('x', g % 5) as t from generate_series(1, ${25}::int) g`.cursor(10, (rows) => void sizes.push(showRows([...rows])))
  say('callback', sizes)
  const first = []
  for await (const rows of sql`select generate_series(1, ${100000}::int) as g`.cursor(3)) {
    first.push(showRows([...rows]))
    if (first.length === 3) break
  }
  say('left early', first)
  await run('goes on', sql`select 1 as one`)
  const seen = []
  await sql`select 10 / (5 - g) as n from generate_series(1, ${10}::int) g`.cursor(2, (rows) => void seen.push(showRows([...rows]))).catch((error) => seen.push(showError(error)))
  say('error on the way', seen)
  await sql.begin(async (tx) => {
    const counts = []
    for await (const rows of tx`select generate_series(1, ${7}::int) as g`.cursor(3)) counts.push(rows.length)
    say('in a transaction', counts)
  })
  const each = []
  await sql`select generate_series(1, ${5}::int) as g`.forEach((row) => each.push(row.g))
  say('forEach', each)
  await run('goes on', sql`select 2 as two`)
  await sql.end()
}

async function copy() {
  const sql = open()
  await run('setup', sql.unsafe('drop table if exists pjs_c; create table pjs_c (id int primary key, name text)'))
  const rows = function* (from, n) {
    for (let i = 0; i < n; i++) yield `${from + i}\tname ${i}\n`
  }
  await pipeline(Readable.from(rows(0, 20000)), await sql`copy pjs_c (id, name) from stdin`.writable())
  await run('count', sql`select count(*), sum(id) from pjs_c`)
  let text = ''
  const collect = () => new Writable({ write: (chunk, _, done) => ((text += chunk), done()) })
  await pipeline(await sql`copy (select id, name from pjs_c order by id) to stdout with (format csv)`.readable(), collect())
  say('out', short(text))
  await run('goes on', sql`select ${1}::int as one`)
  await sql.begin(async (tx) => {
    await pipeline(Readable.from(rows(50000, 10)), await tx`copy pjs_c from stdin`.writable())
    await run('in a transaction', tx`select count(*) from pjs_c`)
  })
  await run('goes on', sql`select ${1}::int as one`)
  await sql.end()
}

async function notices() {
  const sql = open()
  await run('drop', sql`drop table if exists never_was`)
  await run('raise', sql.unsafe("do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; raise warning 'w'; end $$"))
  await run('exception', sql.unsafe("do $$ begin raise notice 'before'; raise exception 'failed' using errcode = 'XY123'; end $$"))
  await sql.end()
}

async function large() {
  const sql = open()
  for (const size of [8192, 65536, 4 << 20]) await run(`value of ${size}`, sql`select ${'v'.repeat(size)}::text as v, length(${'v'.repeat(size)})`)
  await run('many rows', sql`select g, repeat('r', g % 100) as t from generate_series(1, ${20000}::int) g`)
  await sql.end()
}

async function cancel() {
  const sql = open()
  const watch = open()
  const count = async () => (await watch.unsafe(sleepers))[0].n
  for (const make of [() => sql.unsafe('select pg_sleep(30)'), () => sql`select pg_sleep(${30})`]) {
    const { query } = await cancelRunning(make, count)
    await run('cancelled', query)
    await run('goes on', sql`select ${'goes on'}::text as t`)
  }
  await waitFor(0, count)
  await sql.end()
  await watch.end()
}

// cancelRunning starts a query, cancels it when the server is seen to run it, and returns it. PostgreSQL signals twice, and this
// driver does not tell when its cancel request is over: a query that the second signal of an earlier one has hit is started anew.
async function cancelRunning(make, count) {
  for (;;) {
    const query = make()
    let hit = false
    query.catch(() => (hit = true))
    await waitFor(1, async () => (hit ? 1 : await count()))
    if (!hit) {
      query.cancel()
      return { query } // await would wait for the end of the query itself
    }
  }
}

async function pool() {
  const sql = open({ max: 4 })
  const results = await Promise.all(Array.from({ length: 80 }, (_, i) => sql`select ${i}::int as n`))
  say('results', results.map((r) => r[0].n))
  const different = await Promise.all(Array.from({ length: 40 }, (_, i) => sql.unsafe(`select ${i} + $1::int as n`, [i], { prepare: true })))
  say('different', different.map((r) => r[0].n))
  await sql.end()
}

async function session() {
  const sql = open()
  for (const text of [
    "set timezone = 'Asia/Tokyo'", 'show timezone', 'create temp table mine (n int); insert into mine values (1)', 'select * from mine',
    'prepare p (int) as select $1 * 2 as n', 'execute p (21)', 'select pg_try_advisory_lock(7)',
  ]) {
    await run(text, sql.unsafe(text))
  }
  let heard
  const notified = new Promise((resolve) => (heard = resolve))
  await sql.listen('pjs_news', heard)
  await sql.notify('pjs_news', 'extra')
  say('notified', await notified)
  const reserved = await sql.reserve()
  await run('reserved', reserved`show timezone`)
  reserved.release()
  await sql.end()
}

// turns makes two clients share one server connection.
async function turns() {
  const clients = [open({ database: process.env.PGDATABASE_ONE }), open({ database: process.env.PGDATABASE_ONE })]
  for (let round = 0; round < 12; round++) {
    for (const [i, sql] of clients.entries()) {
      await run('same', sql`select ${round}::int as of_the_same_text`)
      await run('own', sql.unsafe(`select 'client ${i}' as c, $1::int as n`, [round], { prepare: true }))
    }
    const both = clients.map((sql, i) => Promise.all(Array.from({ length: 5 }, (_, j) => sql`select ${100 * i + j}::int as n`)))
    say('at once', (await Promise.all(both)).map((all) => all.map((r) => r[0].n)))
  }
  for (const sql of clients) await sql.end()
}

begin('postgres')
await features({
  connect,
  'startup parameters': startup,
  types,
  'queries, prepared': prepared,
  'queries, unprepared': unprepared,
  'multi-statement': multi,
  transactions,
  cursors,
  COPY: copy,
  notices,
  'large values': large,
  cancel,
  'connection pool': pool,
  'session state': session,
  'server connections change hands': turns,
})
