// node-postgres against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript.
import pg from 'pg'
import Cursor from 'pg-cursor'
import { begin, features, say, short, show, showError, showLoginError, showRows, sleepers, waitFor } from './transcript.js'

async function open(config = {}) {
  const client = new pg.Client(config)
  client.on('notice', (notice) => say('notice', showError(notice)))
  await client.connect()
  return client
}

function showResult(result) {
  if (Array.isArray(result)) return result.map(showResult)
  return {
    command: result.command,
    rowCount: result.rowCount,
    fields: result.fields.map((f) => [f.name, f.tableID !== 0, f.columnID, f.dataTypeID, f.dataTypeSize, f.dataTypeModifier, f.format]),
    rows: showRows(result.rows),
  }
}

async function run(client, query, values) {
  const step = typeof query === 'string' ? query : query.name || query.text
  try {
    say(short(step), showResult(await client.query(query, values)))
  } catch (error) {
    say(short(step), showError(error))
  }
}

const array = (text, values = []) => ({ text, values, rowMode: 'array' })

async function connect() {
  const parameters = {}
  const client = new pg.Client()
  client.connection.on('parameterStatus', (m) => (parameters[m.parameterName] = m.parameterValue))
  await client.connect()
  say('parameters', parameters)
  say('has a process id', client.processID > 0)
  say('has a secret key', client.secretKey !== null)
  await client.end()
  const wrong = new pg.Client({ password: 'wrong' })
  await wrong.connect().catch((error) => say('wrong password', showLoginError(error)))
  await wrong.end().catch(() => {})
}

async function startup() {
  const client = await open({
    application_name: "drivers' tests",
    options: '-c timezone=Asia/Kathmandu -c datestyle=German',
    statement_timeout: 54321,
    idle_in_transaction_session_timeout: 65432,
    lock_timeout: 76543,
  })
  for (const name of ['application_name', 'timezone', 'datestyle', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']) {
    await run(client, `show ${name}`)
  }
  await run(client, "select (timestamptz '2024-02-29 12:34:56+00')::text")
  await client.end()
}

async function types() {
  const client = await open()
  for (const expr of [
    'true', '1::int2', '3::int8', '0.1::float8', "'NaN'::float8", '12345.678900::numeric', "'text'::text", "'c'::char(3)", "'\\x00ff'::bytea",
    "'2024-02-29 12:34:56.789'::timestamptz", "'1 mon 2 days 03:04:05'::interval", "'00112233-4455-6677-8899-aabbccddeeff'::uuid",
    `'{"a": [1, null]}'::json`, `'{"a": [1, null]}'::jsonb`, "'{1,2,3}'::int4[]", `'{{a,"b c"},{NULL,"d"}}'::text[]`, "'[1,10)'::int4range",
    "'10.0.0.1/8'::inet", "'(1,2)'::point", 'null::text', "row(1, 'x')", "'grüße 🌊'",
  ]) {
    await run(client, `select ${expr} as v`)
    await run(client, array(`select ${expr} as v, $1::text`, ['extended']))
    await run(client, { text: `select ${expr} as v where $1`, values: [true], binary: true })
  }
  for (const value of [null, true, 42, 2 ** 40, 0.5, "o'clock", Buffer.from([0, 255]), new Date(0), { a: [1, null] }, 10n]) {
    await run(client, array('select $1 as v', [value]))
  }
  await run(client, array('select $1::int[]', [[1, null, 3]]))
  await client.end()
}

async function queries() {
  const client = await open()
  await run(client, 'drop table if exists node_q; create table node_q (id int primary key, name text check (name <> $$bad$$))')
  for (let i = 0; i < 8; i++) await run(client, 'insert into node_q values ($1, $2)', [i, `name ${i}`])
  for (let i = 0; i < 8; i++) await run(client, 'select id, name from node_q where id between $1 and $1 + 1 order by id', [i])
  await run(client, 'update node_q set name = $1 where id < $2 returning id', ['new', 3])
  await run(client, 'select from node_q where id < $1', [2])
  await run(client, '')
  await run(client, '', [])
  await run(client, '-- only a comment')
  await run(client, array('select 1 as same, 2 as same'))
  await run(client, 'insert into node_q values ($1)', [1])
  await run(client, "insert into node_q values ($1, 'bad')", [50])
  await run(client, 'select 1 / $1::int', [0])
  await run(client, 'select 1 / (3 - g) from generate_series(1, $1) g', [5])
  await run(client, 'selec $1', [0])
  await run(client, 'select $1::int', ['not a number'])
  await run(client, 'select $1::int, $2::int', [1])
  await run(client, 'select * from nowhere')
  await run(client, 'select count(*) from node_q')

  // Queries queue in the driver, which sends the next one when the last is done.
  const many = []
  for (let i = 0; i < 30; i++) many.push(client.query(i === 10 ? 'select 1/0' : `select ${i}::int as n`).catch((error) => error))
  say('queued', (await Promise.all(many)).map((r) => (r instanceof Error ? r.code : r.rows[0].n)))
  await client.end()
}

async function multi() {
  const client = await open()
  for (const text of [
    "select 1 as a; select 'x' as b, 2; ; select where false",
    'drop table if exists node_m; create table node_m (n int); insert into node_m select generate_series(1, 5); select sum(n) from node_m',
    'insert into node_m values (6); select 1/0; insert into node_m values (7)',
    'begin; insert into node_m values (8); rollback; select count(*) from node_m',
    'select 1; select 2',
  ]) {
    await run(client, text)
  }
  await run(client, 'select 1; select $1::int', [2]) // the extended protocol takes one statement
  await run(client, 'select count(*) from node_m')
  await client.end()
}

async function named() {
  const client = await open()
  for (let i = 0; i < 12; i++) {
    await run(client, { name: 'add', text: 'select $1::int + 1 as n', values: [i] })
    await run(client, { name: 'say', text: 'select $1::text || $2::text as t', values: ['a', i] })
    await run(client, `select ${i}::int, 'between'`)
  }
  await run(client, { name: 'add', text: 'select $1::int + 1 as n', values: ['not a number'] })
  await run(client, { name: 'add', text: 'select $1::int + 1 as n', values: [1] })
  await run(client, { name: 'add', text: 'select another text', values: [1] }) // the driver itself refuses
  await run(client, { name: 'bad', text: 'select from where', values: [] })
  await run(client, { name: 'bad', text: 'select from where', values: [] })
  await client.query('begin')
  await run(client, { name: 'in a transaction', text: 'select $1::int', values: [1] })
  await client.query('rollback')
  await run(client, { name: 'in a transaction', text: 'select $1::int', values: [2] })
  await client.end()
}

async function transactions() {
  const client = await open()
  await run(client, 'drop table if exists node_t; create table node_t (n int primary key)')
  for (const end of ['commit', 'rollback']) {
    await run(client, 'begin isolation level serializable')
    await run(client, 'insert into node_t select coalesce(max(n), 0) + $1 from node_t', [1])
    await run(client, 'savepoint s')
    await run(client, 'insert into node_t values ($1)', [1])
    await run(client, 'insert into node_t values ($1)', [1])
    await run(client, 'select 1')
    await run(client, 'rollback to s')
    await run(client, 'select count(*) from node_t')
    await run(client, end)
  }
  await run(client, 'begin')
  await run(client, 'select 1/0')
  await run(client, 'commit')
  await run(client, 'select count(*) from node_t')
  await client.end()
}

async function cursor() {
  const client = await open()
  for (const inTransaction of [true, false]) {
    if (inTransaction) await client.query('begin')
    const c = client.query(new Cursor('select g, $1::text as t from generate_series(1, 10) g', ['row']))
    for (const size of [3, 3, 1, 100, 5]) say(`read ${size}`, showRows(await c.read(size)))
    await c.close()
    await run(client, 'select 1 as between')
    const early = client.query(new Cursor('select generate_series(1, 100000) as g'))
    say('read 2', showRows(await early.read(2)))
    await early.close()
    await run(client, 'select 2 as between')
    const fails = client.query(new Cursor('select 10 / (5 - g) from generate_series(1, 10) g'))
    say('read 3', showRows(await fails.read(3)))
    await fails.read(3).catch((error) => say('error', showError(error)))
    await fails.close().catch((error) => say('close', showError(error)))
    if (inTransaction) await run(client, 'rollback')
    await run(client, "select 'goes on'")
  }
  await client.end()
}

async function notices() {
  const client = await open()
  await run(client, 'drop table if exists never_was')
  await run(client, "do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; raise warning 'w'; end $$")
  await run(client, { text: "do $$ begin raise notice 'n'; end $$", values: [], queryMode: 'extended' })
  await run(client, "do $$ begin raise notice 'before'; raise exception 'failed' using errcode = 'XY123'; end $$")
  await client.end()
}

async function large() {
  const client = await open()
  for (const size of [8192, 65536, 4 << 20]) await run(client, array('select $1::text, length($1)', ['v'.repeat(size)]))
  await run(client, array("select g, repeat('r', g % 100) from generate_series(1, $1::int) g", [20000]))
  await client.end()
}

async function cancel() {
  const client = await open()
  const watch = await open()
  const count = async () => (await watch.query(sleepers)).rows[0].n
  for (const config of ['select pg_sleep(30)', { text: 'select pg_sleep($1)', values: [30] }]) {
    const query = new pg.Query(config)
    const done = new Promise((resolve) => query.on('error', resolve).on('end', resolve))
    client.query(query)
    await waitFor(1, count)
    const canceller = new pg.Client({ ssl: false }) // over TLS this driver never gets to send it
    const over = new Promise((resolve) => canceller.connection.once('end', resolve))
    canceller.cancel(client, query)
    say('cancelled', showError(await done))
    await over // PostgreSQL signals twice: until then the second may hit what runs next
    await run(client, "select 'goes on'")
  }
  await waitFor(0, count)
  await watch.end()
  await client.end()
}

async function pool() {
  const p = new pg.Pool({ max: 4 })
  const results = await Promise.all(Array.from({ length: 40 }, (_, i) => p.query({ name: 'pooled', text: 'select $1::int as n', values: [i] })))
  say('results', results.map((r) => r.rows[0].n))
  await p.end()
}

async function session() {
  const client = await open()
  const other = await open()
  const notified = new Promise((resolve) => client.on('notification', (n) => resolve([n.channel, n.payload])))
  for (const text of [
    "set timezone = 'Asia/Tokyo'", 'show timezone', 'create temp table mine (n int); insert into mine values (1)', 'select * from mine',
    'prepare p (int) as select $1 * 2', 'execute p (21)', 'select pg_try_advisory_lock(7)', 'listen node_news',
    'declare held cursor with hold for select generate_series(1, 5)', 'fetch 2 from held', 'fetch 2 from held',
  ]) {
    await run(client, text)
  }
  await run(other, 'select pg_try_advisory_lock(7)')
  await run(other, 'select * from mine')
  await run(other, "notify node_news, 'extra'")
  say('notified', await notified)
  await run(client, 'discard all')
  await run(client, 'show timezone')
  await client.end()
  await other.end()
}

// turns makes two clients share one server connection, with a statement of the same name and another text.
async function turns() {
  const clients = [await open({ database: process.env.PGDATABASE_ONE }), await open({ database: process.env.PGDATABASE_ONE })]
  for (let round = 0; round < 12; round++) {
    for (const [i, client] of clients.entries()) {
      await run(client, { name: 'same name', text: `select 'client ${i}' as c, $1::int as n`, values: [round] })
      await run(client, { name: 'same', text: 'select $1::text as of_the_same_text', values: [round] })
    }
  }
  for (const client of clients) await client.end()
}

begin('pg')
await features({
  connect,
  'startup parameters': startup,
  types,
  'queries and errors': queries,
  'multi-statement': multi,
  'named statements': named,
  transactions,
  'cursors (pg-cursor)': cursor,
  notices,
  'large values': large,
  cancel,
  'connection pool': pool,
  'session state': session,
  'server connections change hands': turns,
})
