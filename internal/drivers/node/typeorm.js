// TypeORM, on node-postgres, against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript.
//
// Of the ORMs for Node it is the one that by default uses most of the protocol: it reads the catalogs and creates the
// tables itself in one transaction, it streams rows by a portal, and nested transactions are savepoints.
import { DataSource, EntitySchema, In, LessThan, Like, MigrationExecutor, Not, IsNull, Raw } from 'typeorm'
import { begin, features, say, short, show, showError, showLoginError, showRows } from './transcript.js'

console.log = console.error // where TypeORM tells of a migration that failed; standard output is the transcript's

const schema = 'to_shop'

const Author = new EntitySchema({
  name: 'Author', schema,
  columns: { id: { type: Number, primary: true, generated: true }, name: { type: String, length: 50, unique: true } },
  relations: { books: { type: 'one-to-many', target: 'Book', inverseSide: 'author', cascade: true } },
})

const Book = new EntitySchema({
  name: 'Book', schema,
  columns: {
    id: { type: Number, primary: true, generated: true },
    title: { type: 'text' },
    price: { type: 'numeric', precision: 10, scale: 2, nullable: true },
    version: { type: Number, version: true },
  },
  indices: [{ columns: ['title'] }],
  checks: [{ expression: '"price" >= 0' }],
  relations: {
    author: { type: 'many-to-one', target: 'Author', inverseSide: 'books', nullable: false, onDelete: 'CASCADE' },
    tags: { type: 'many-to-many', target: 'Tag', joinTable: true, cascade: true },
  },
})

const Tag = new EntitySchema({
  name: 'Tag', schema,
  columns: { id: { type: Number, primary: true, generated: true }, name: { type: String, unique: true } },
})

const Thing = new EntitySchema({
  name: 'Thing', schema,
  columns: {
    id: { type: Number, primary: true },
    key: { type: 'uuid', generated: 'uuid' },
    made: { type: 'timestamptz', createDate: true },
    at: { type: 'timestamptz', nullable: true },
    local: { type: 'timestamp', nullable: true },
    day: { type: 'date', nullable: true },
    took: { type: 'interval', nullable: true },
    price: { type: 'numeric', precision: 20, scale: 6, nullable: true },
    big: { type: 'bigint', nullable: true },
    ratio: { type: 'float8', nullable: true },
    document: { type: 'jsonb', nullable: true },
    plain: { type: 'simple-json', nullable: true },
    numbers: { type: 'int', array: true, nullable: true },
    words: { type: 'text', array: true, nullable: true },
    span: { type: 'int4range', nullable: true },
    mood: { type: 'enum', enum: ['happy', 'sad'], nullable: true },
    raw: { type: 'bytea', nullable: true },
    flag: { type: Boolean, default: true },
  },
})

const Counter = new EntitySchema({ name: 'Counter', schema, columns: { id: { type: Number, primary: true }, n: { type: Number } } })

const entities = [Author, Book, Tag, Thing, Counter]

// The server's address is what node-postgres finds in the environment.
const source = (options = {}) => new DataSource({ type: 'postgres', entities, ...options })

// open gives the usual data source, with its pool of up to ten connections.
async function open(options) {
  const db = source(options)
  await db.initialize()
  return db
}

// showFailure is what TypeORM made of an error, and what it was made of.
const showFailure = (error) => (error.driverError ? [error.constructor.name, showError(error.driverError)] : error.constructor.name)

// plain is a result without what differs from run to run.
function plain(value) {
  if (Array.isArray(value)) return value.length > 100 ? [value.length, short(JSON.stringify(value.map(plain)))] : value.map(plain)
  if (value === null || typeof value !== 'object' || value instanceof Date || Buffer.isBuffer(value)) return show(value)
  if (value.constructor.name === 'PostgresInterval') return show(value)
  return Object.fromEntries(Object.entries(value).filter(([name]) => !['key', 'made'].includes(name)).map(([name, v]) => [name, plain(v)]))
}

async function attempt(step, call) {
  try {
    const value = await call()
    say(step, value === undefined ? 'done' : plain(value))
  } catch (error) {
    say(step, showFailure(error))
  }
}

// fresh gives the tables anew, with two authors and their books.
async function fresh(db) {
  await db.query(`truncate ${entities.map((e) => db.getMetadata(e).tablePath).join(', ')} restart identity cascade`)
  const tags = await db.getRepository(Tag).save([{ name: 'fiction' }, { name: 'old' }])
  for (const name of ['Ada', 'Bo']) {
    const books = [0, 1, 2, 3].map((i) => ({ title: `${name} ${i}`, price: (i / 4).toFixed(2), tags: tags.slice(0, i % 3) }))
    await db.getRepository(Author).save({ name, books })
  }
}

// withShop runs a feature that starts with filled tables.
const withShop = (run) => async () => {
  const db = await open()
  try {
    await fresh(db)
    await run(db)
  } finally {
    await db.destroy()
  }
}

async function connect() {
  const db = await open()
  say('version', db.driver.version)
  say('schema', [db.driver.schema, db.driver.searchSchema])
  await attempt('settings', () => db.query("select current_setting('timezone') as timezone, current_setting('client_encoding') as encoding"))
  await db.destroy()
  await source({ password: 'wrong' }).initialize().catch((error) => say('wrong password', showLoginError(error)))
}

class Migration1700000000000 {
  name = 'Migration1700000000000'

  async up(runner) {
    await runner.query(`create table ${schema}.migrated (n int primary key)`)
    await runner.query(`insert into ${schema}.migrated select generate_series(1, $1::int)`, [3])
  }

  async down(runner) {
    await runner.query(`drop table ${schema}.migrated`)
  }
}

class Failing1700000000001 {
  name = 'Failing1700000000001'

  async up(runner) {
    await runner.query(`insert into ${schema}.migrated values (1)`)
  }

  async down() {}
}

async function synchronize() {
  const db = await open()
  const runner = db.createQueryRunner()
  await runner.query(`drop schema if exists ${schema} cascade`)
  await runner.createSchema(schema)
  await attempt('synchronize', () => db.synchronize())
  await attempt('again', () => db.synchronize())
  say('nothing to do', (await db.driver.createSchemaBuilder().log()).upQueries.map((q) => q.query))
  for (const entity of entities) {
    const table = await runner.getTable(db.getMetadata(entity).tablePath)
    say(table.name, {
      columns: table.columns.map((c) => [c.name, c.type, c.length, c.precision ?? null, c.scale ?? null, c.isNullable, c.isArray, c.default ?? null, c.enum ?? null]),
      indices: table.indices.map((i) => [i.name, i.columnNames, i.isUnique]).sort(),
      uniques: table.uniques.map((u) => [u.name, u.columnNames]).sort(),
      checks: table.checks.map((c) => [c.name, c.expression]),
      foreignKeys: table.foreignKeys.map((f) => [f.name, f.columnNames, f.referencedTableName, f.onDelete]),
    })
  }
  await runner.release()
  await db.destroy()

  const migrating = await open({ migrations: [Migration1700000000000], schema })
  say('pending', await migrating.showMigrations())
  say('run', (await migrating.runMigrations()).map((m) => m.name))
  await attempt('migrated', () => migrating.query(`select n from ${schema}.migrated`))
  await migrating.destroy()
  const failing = await open({ migrations: [Migration1700000000000, Failing1700000000001], schema })
  await attempt('a migration that fails', () => failing.runMigrations())
  say('still pending', (await new MigrationExecutor(failing).getPendingMigrations()).map((m) => m.name))
  await attempt('undo', () => failing.undoLastMigration())
  await failing.destroy()
}

async function queries(db) {
  const books = db.getRepository(Book)
  const book = await books.findOneBy({ title: 'Ada 2' })
  say('loaded', plain(book))
  Object.assign(book, { title: "o'clock \\ % :x $1", price: null })
  await attempt('save', () => books.save(book))
  await attempt('found again', () => books.findOneByOrFail({ id: book.id }))
  await attempt('remove', () => books.remove(book))
  for (let i = 0; i < 8; i++) await attempt('in', () => books.find({ select: { id: true, title: true }, where: { id: In([i, i + 1, i + 2]) }, order: { id: 'ASC' } }))
  await attempt('like', () => books.findAndCount({ where: [{ title: Like('Bo%'), price: Not(IsNull()) }, { price: LessThan('0.10') }], order: { id: 'DESC' }, skip: 1, take: 2 }))
  await attempt('raw', () => books.findBy({ title: Raw((column) => `lower(${column}) = :title`, { title: 'bo 1' }) }))
  await attempt('group', () => books.createQueryBuilder('b').select(['author.name as name', 'count(*) as n', 'sum(b.price) as total']).innerJoin('b.author', 'author').groupBy('author.name').orderBy('author.name').getRawMany())
  await attempt('query builder', () => books.createQueryBuilder('b').where('b.id between :a and :z', { a: 2, z: 6 }).andWhere('b.title <> all(:titles)', { titles: ['Ada 1', 'x'] }).orderBy('b.id').getMany())
  await attempt('subquery', () => db.createQueryBuilder().select('count(*)', 'n').from((q) => q.select('b.title').from(Book, 'b').where('b.price > :p', { p: 0.3 }), 's').getRawOne())
  await attempt('with', () => db.createQueryBuilder().addCommonTableExpression('select generate_series(1, 3) as n', 'numbers').select('n').from('numbers', 'numbers').getRawMany())
  await attempt('none', () => books.findOneBy({ id: -1 }))
  await attempt('not there', () => books.findOneByOrFail({ id: -1 }))
  await attempt('update', () => books.update({ id: LessThan(4) }, { price: '9.99' }))
  await attempt('increment', () => books.increment({ id: 4 }, 'price', 2))
  await attempt('returning', () => books.createQueryBuilder().update().set({ price: () => 'price * 2' }).where('id < :id', { id: 3 }).returning('id, price').execute())
  await attempt('upsert', () => db.getRepository(Tag).upsert([{ name: 'old' }, { name: 'new' }], ['name']))
  await attempt('count', () => books.count())
  await attempt('sum', () => books.sum('price'))
  await attempt('delete', () => books.delete({ id: 1 }))
  await attempt('parameters', () => db.query('select $1::int + 1 as n, $2::text as t, $3::text as nothing', [41, 'x', null]))

  const rows = []
  const stream = await db.createQueryBuilder().select('g').from('(select generate_series(1, 1000) as g)', 's').stream()
  for await (const row of stream) rows.push(row)
  say('streamed', showRows(rows))
  const runner = db.createQueryRunner()
  const failing = await runner.stream('select 10 / (700 - g) as n from generate_series(1, $1::int) g', [1000])
  let seen = 0
  try {
    for await (const _ of failing) seen++
  } catch (error) {
    say('error on the way', [seen, showError(error)])
  }
  await runner.release()
  await attempt('goes on', () => books.count())
}

async function bulk(db) {
  const tags = db.getRepository(Tag)
  await attempt('one statement', async () => (await tags.insert(Array.from({ length: 3000 }, (_, i) => ({ name: `tag ${i}` })))).identifiers.length)
  await attempt('save in chunks', async () => (await tags.save(Array.from({ length: 300 }, (_, i) => ({ name: `saved ${i}` })), { chunk: 70 })).length)
  await attempt('with their books', async () => {
    const authors = Array.from({ length: 100 }, (_, i) => ({ name: `author ${i}`, books: [{ title: `t ${i}`, price: i }] }))
    return (await db.getRepository(Author).save(authors)).length
  })
  await attempt('duplicate among many', () => tags.insert([{ name: 'a' }, { name: 'b' }, { name: 'a' }]))
  await attempt('ignored', async () => (await tags.createQueryBuilder().insert().values([{ name: 'tag 1' }, { name: 'another' }]).orIgnore().execute()).raw.length)
  await attempt('too many parameters', () => tags.insert(Array.from({ length: 66000 }, (_, i) => ({ name: `too many ${i}` }))))
  await attempt('count', () => tags.createQueryBuilder('t').select(['count(*) as n', 'min(name) as first', 'max(id) as last']).getRawOne())
  await attempt('books', () => db.getRepository(Book).count())
}

async function transactions(db) {
  const names = (step) => attempt(step, async () => (await db.getRepository(Author).find({ order: { id: 'ASC' } })).map((a) => a.name))
  await db.transaction((em) => em.save(Author, { name: 'committed' }))
  await names('committed')
  await attempt('throws', () => db.transaction(async (em) => {
    await em.save(Author, { name: 'rolled back' })
    throw new TypeError('rolls back')
  }))
  await names('rolled back')
  await db.transaction(async (em) => {
    await em.save(Author, { name: 'outer' })
    for (let i = 0; i < 6; i++) {
      await attempt('savepoint', () => em.transaction(async (nested) => {
        await nested.save(Author, { name: `nested ${i}` })
        await nested.transaction((twice) => twice.insert(Author, { name: i % 2 ? 'outer' : `twice nested ${i}` }))
      }))
    }
  })
  await names('savepoints')
  for (const level of ['SERIALIZABLE', 'REPEATABLE READ', 'READ COMMITTED']) {
    await attempt(level, () => db.transaction(level, (em) => em.query("select current_setting('transaction_isolation') as level")))
  }
  const runner = db.createQueryRunner()
  await runner.startTransaction()
  await attempt('by hand', () => runner.manager.insert(Author, { name: 'by hand' }))
  await attempt('fails', () => runner.manager.insert(Author, { name: 'Ada' }))
  await attempt('aborted', () => runner.manager.count(Author))
  await runner.rollbackTransaction()
  await runner.startTransaction()
  await runner.manager.insert(Author, { name: 'by hand again' })
  await runner.commitTransaction()
  await runner.release()
  await names('by hand')
  await db.transaction(async (em) => {
    await em.findOne(Author, { where: { name: 'Ada' }, lock: { mode: 'pessimistic_write' } })
    await attempt('locked', () => db.transaction((other) => other.findOne(Author, { where: { name: 'Ada' }, lock: { mode: 'pessimistic_write', onLocked: 'nowait' } })))
    await attempt('skip locked', () => db.transaction((other) => other.find(Author, { order: { id: 'ASC' }, take: 2, lock: { mode: 'pessimistic_write', onLocked: 'skip_locked' } })))
  })
  await attempt('stale', async () => {
    const book = await db.getRepository(Book).findOneBy({ id: 1 })
    return db.transaction((em) => em.findOne(Book, { where: { id: 1 }, lock: { mode: 'optimistic', version: book.version + 1 } }))
  })
}

async function relations(db) {
  const authors = db.getRepository(Author)
  const order = { id: 'ASC', books: { id: 'ASC', tags: { id: 'ASC' } } }
  await attempt('join', () => authors.find({ relations: { books: { tags: true } }, order }))
  await attempt('a query each', () => authors.find({ relations: { books: { tags: true } }, order: { id: 'ASC' }, relationLoadStrategy: 'query' }))
  await attempt('query builder', () => authors.createQueryBuilder('a').leftJoinAndSelect('a.books', 'b', 'b.price > :price', { price: 0.2 }).leftJoinAndSelect('b.tags', 't').orderBy('a.id').addOrderBy('b.id').addOrderBy('t.id').getMany())
  await attempt('where of a relation', () => db.getRepository(Book).find({ where: { tags: { name: 'old' } }, relations: { author: true }, order: { id: 'ASC' } }))
  await attempt('page', () => authors.find({ relations: { books: true }, order: { id: 'DESC', books: { id: 'ASC' } }, take: 1 }))
  const ada = await authors.findOne({ where: { name: 'Ada' }, relations: { books: true }, order: { books: { id: 'ASC' } } })
  ada.books.push({ title: 'another', price: 9, tags: [{ name: 'new' }] })
  await attempt('cascade', () => authors.save(ada))
  await attempt('relation query builder', () => db.createQueryBuilder().relation(Book, 'tags').of(2).add(2))
  await attempt('loaded', () => db.createQueryBuilder().relation(Book, 'tags').of(2).loadMany())
  await attempt('remove', () => authors.remove(ada)) // and her books
  await attempt('left', () => db.getRepository(Book).find({ select: { title: true }, order: { id: 'ASC' } }))
}

async function errors(db) {
  for (const [step, call] of Object.entries({
    unique: () => db.getRepository(Author).insert({ name: 'Ada' }),
    'unique, saved': () => db.getRepository(Author).save({ name: 'Ada' }),
    check: () => db.getRepository(Book).insert({ title: 't', price: -1, author: { id: 1 } }),
    'foreign key': () => db.getRepository(Book).insert({ title: 't', author: { id: 999 } }),
    'not null': () => db.getRepository(Book).insert({ title: 't' }),
    'too long': () => db.getRepository(Author).insert({ name: 'x'.repeat(51) }),
    division: () => db.query('select 1 / $1::int', [0]),
    syntax: () => db.query('selec'),
    'no such table': () => db.query('select * from nowhere'),
    'not a number': () => db.query('select $1::int', ['x']),
    'too few parameters': () => db.query('select $1::int, $2::int', [1]),
  })) {
    await attempt(step, call)
    await attempt('goes on', () => db.getRepository(Book).count())
  }
}

async function types(db) {
  const things = db.getRepository(Thing)
  await things.save({
    id: 1, at: new Date('2024-02-29T12:34:56.789+05:45'), local: new Date(2024, 1, 29, 12, 34, 56), day: '2024-02-29', took: '3 days 00:00:04.5',
    price: '12345.678900', big: '9007199254740993', ratio: 0.1, document: { a: [1, null, 'grüße 🌊'], b: { c: 1.5 } }, plain: { x: [1] },
    numbers: [1, null, 3], words: ['a', 'b c', 'd"', '{}'], span: '[1,10)', mood: 'sad', raw: Buffer.from([0, 255]),
  })
  await things.save({ id: 2 })
  await attempt('things', () => things.find({ order: { id: 'ASC' } }))
  say('a key of its own', /^[0-9a-f-]{36}$/.test((await things.findOneBy({ id: 2 })).key))
  await attempt("in the server's words", () => db.query(`select at::text, local::text, took::text, price::text, document::text, numbers::text, words::text from ${schema}.thing order by id`))
  for (const [step, where, parameters] of [
    ['json', "t.document -> 'b' ->> 'c' = :c", { c: '1.5' }], ['contains', 't.document @> :d', { d: { a: [1] } }], ['array', ':n = any(t.numbers)', { n: 3 }],
    ['overlap', 't.words && :w', { w: ['b c', 'x'] }], ['range', 't.span @> :n::int', { n: 5 }], ['enum', 't.mood = :m', { m: 'sad' }],
    ['time', 't.at < :at', { at: new Date('2024-02-29T07:00:00Z') }], ['decimal', 't.price > :p', { p: '12345.6788' }],
  ]) {
    await attempt(step, async () => (await things.createQueryBuilder('t').where(where, parameters).getMany()).map((t) => t.id))
  }
  await db.transaction(async (em) => {
    await em.query("set local timezone = 'Asia/Tokyo'")
    await attempt('another time zone', () => em.query(`select at, at::text as text from ${schema}.thing where id = 1`))
  })
  await attempt('large', () => db.query('select $1::text as t, length($1) as n', ['v'.repeat(2 << 20)]))
}

async function concurrently(db) {
  await db.getRepository(Counter).insert([0, 1, 2].map((id) => ({ id, n: 0 })))
  const work = async (worker) => {
    for (let i = 0; i < 12; i++) {
      await db.transaction(async (em) => {
        const counter = await em.findOne(Counter, { where: { id: (worker + i) % 3 }, lock: { mode: 'pessimistic_write' } })
        counter.n++
        await em.save(Counter, counter)
        if (i % 4 === 3) throw new RangeError('rolls back')
      }).catch((error) => {
        if (!(error instanceof RangeError)) throw error
      })
    }
  }
  await Promise.all([0, 1, 2, 3, 4, 5].map(work))
  await attempt('counted', () => db.getRepository(Counter).sum('n'))
  const counts = await Promise.all(Array.from({ length: 7 }, (_, i) => db.getRepository(Book).countBy({ id: LessThan(i) })))
  say('at once', counts)
}

async function session() {
  const db = await open({ poolSize: 1 })
  for (const text of [
    "set timezone = 'Asia/Tokyo'", 'show timezone', 'create temp table mine (n int)', 'insert into mine values (1)', 'select * from mine',
    'select pg_try_advisory_lock(7) as locked',
  ]) {
    await attempt(text, () => db.query(text))
  }
  await db.destroy()
}

// turns makes two data sources of one connection each share one server connection, transaction by transaction.
async function turns() {
  const sources = [await open({ database: process.env.PGDATABASE_ONE, poolSize: 1 }), await open({ database: process.env.PGDATABASE_ONE, poolSize: 1 })]
  for (let round = 0; round < 12; round++) {
    for (const [i, db] of sources.entries()) {
      await attempt('transaction', () => db.transaction(async (em) => {
        await em.save(Author, { name: `client ${i}, round ${round}`, books: [{ title: 't', price: round }] })
        await attempt('in it', async () => (await em.find(Author, { order: { id: 'DESC' }, take: 2 })).map((a) => a.name))
        if (round % 3 === 2) throw new RangeError('rolls back')
      }))
      await attempt('after it', () => db.getRepository(Book).sum('price'))
    }
  }
  for (const db of sources) await db.destroy()
}

begin('typeorm')
await features({
  connect,
  'schema and migrations': synchronize,
  queries: withShop(queries),
  'bulk insert': withShop(bulk),
  'transactions and savepoints': withShop(transactions),
  relations: withShop(relations),
  'errors, then go on': withShop(errors),
  types: withShop(types),
  'concurrent sessions': withShop(concurrently),
  'session state': session,
  'server connections change hands': withShop(turns),
})
