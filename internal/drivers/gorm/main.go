// Command gorm runs GORM against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE, and prints a transcript.
//
// It was chosen over bun because by default it goes through pgx, which prepares what it runs and sends parameters in binary,
// while bun's own driver writes them into the text of simple queries: there is more to go wrong.
//
// It is a module of its own, so that an ORM has no say in the versions that weir is built with, and is tested with the pgx
// that it asks for.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	"gorm.io/gorm/schema"
)

var features = []struct {
	name string
	run  func() error
}{
	{"connect", connect},
	{"schema", migrate},
	{"queries", withShop(queries)},
	{"bulk insert", withShop(bulk)},
	{"transactions and savepoints", withShop(transactions)},
	{"relations", withShop(relations)},
	{"errors, then go on", withShop(failures)},
	{"types", withShop(types)},
	{"prepared statements", withShop(prepared)},
	{"concurrent sessions", withShop(concurrently)},
	{"session state", session},
	{"server connections change hands", withShop(turns)},
}

func main() {
	write(map[string]any{"driver": "gorm", "version": version("gorm.io/gorm")})
	for _, f := range features {
		if slices.Contains(os.Args[1:], f.name) {
			continue
		}
		feature = f.name
		if err := f.run(); err != nil {
			say("threw", []any{showError(err), err.Error()})
		}
	}
}

// The transcript.

var feature string

func say(step string, saw any) { write(map[string]any{"feature": feature, "step": step, "saw": saw}) }

func write(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", text)
}

func version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Version[len("v"):]
		}
	}
	return "unknown"
}

// sayDone tells how a statement ended.
func sayDone(step string, db *gorm.DB) {
	if db.Error != nil {
		say(step, showError(db.Error))
		return
	}
	say(step, db.RowsAffected)
}

// sayFound tells what a statement wrote to into.
func sayFound(step string, db *gorm.DB, into any) {
	if db.Error != nil {
		say(step, showError(db.Error))
		return
	}
	say(step, []any{db.RowsAffected, show(into)})
}

// show is a value as GORM filled it in; a long one is its length and checksum.
func show(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(text) > 4000 {
		return fmt.Sprintf("%d bytes, sha256 %x", len(text), sha256.Sum256(text))
	}
	return json.RawMessage(text)
}

// showError shows a server's error in full, and of any other only what kind it is: its text may name a port.
func showError(err error) any {
	var e *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return show(e)
	case errors.Is(err, gorm.ErrRecordNotFound), errors.Is(err, errOurs):
		return err.Error()
	default:
		return fmt.Sprintf("%T", err)
	}
}

// showLoginError is for a login that is refused: weir words it as PostgreSQL does, without a line in PostgreSQL's source.
func showLoginError(err error) any {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return showError(err)
	}
	return []string{e.Severity, e.Code, e.Message, e.Detail, e.Hint}
}

// The shop.

const shopSchema = "gorm_shop"

type (
	Author struct {
		ID    uint
		Name  string `gorm:"size:50;not null;uniqueIndex"`
		Books []Book `gorm:"constraint:OnDelete:CASCADE"`
	}

	Book struct {
		ID       uint
		Title    string         `gorm:"not null;index"`
		Price    *float64       `gorm:"type:numeric(10,2);check:price >= 0"`
		AuthorID uint           `gorm:"not null"`
		Author   *Author        `json:",omitempty"`
		Tags     []Tag          `gorm:"many2many:book_tags"`
		Deleted  gorm.DeletedAt `json:"-"`
	}

	Tag struct {
		ID   uint
		Name string `gorm:"uniqueIndex"`
	}

	Thing struct {
		ID       uint
		Key      string    `gorm:"type:uuid;default:gen_random_uuid()" json:"-"`
		Made     time.Time `gorm:"autoCreateTime" json:"-"`
		At       *time.Time
		Local    *time.Time `gorm:"type:timestamp"`
		Day      *time.Time `gorm:"type:date"`
		Took     *string    `gorm:"type:interval"`
		Price    *string    `gorm:"type:numeric(20,6)"`
		Big      *int64
		Ratio    *float64
		Document map[string]any `gorm:"type:jsonb;serializer:json"`
		Numbers  *string        `gorm:"type:int[]"`
		Words    *string        `gorm:"type:text[]"`
		Mood     *string        `gorm:"type:varchar(10);default:happy"`
		Raw      []byte
		Flag     bool `gorm:"default:true"`
	}

	Counter struct {
		ID uint
		N  int
	}
)

var models = []any{&Author{}, &Tag{}, &Book{}, &Thing{}, &Counter{}}

// open gives a GORM of default settings, but for the schema of its tables and for what it logs, which would be to standard
// output. pgx takes the server from the environment.
func open(dsn string) (*gorm.DB, error) {
	return gorm.Open(postgres.Open(dsn), &gorm.Config{
		Logger: logger.Discard, NamingStrategy: schema.NamingStrategy{TablePrefix: shopSchema + "."},
	})
}

func shut(db *gorm.DB) {
	if pool, err := db.DB(); err == nil {
		pool.Close()
	}
}

// withShop runs a feature that starts with two authors and their books.
func withShop(run func(*gorm.DB) error) func() error {
	return func() error {
		db, err := open("")
		if err != nil {
			return err
		}
		defer shut(db)
		if err := fill(db); err != nil {
			return err
		}
		return run(db)
	}
}

func fill(db *gorm.DB) error {
	tables := "gorm_shop.authors, gorm_shop.tags, gorm_shop.books, gorm_shop.book_tags, gorm_shop.things, gorm_shop.counters"
	if err := db.Exec("truncate " + tables + " restart identity").Error; err != nil {
		return err
	}
	tags := []Tag{{Name: "fiction"}, {Name: "old"}}
	if err := db.Create(&tags).Error; err != nil {
		return err
	}
	for _, name := range []string{"Ada", "Bo"} {
		author := Author{Name: name}
		for i := range 4 {
			author.Books = append(author.Books, Book{Title: fmt.Sprint(name, " ", i), Price: ref(float64(i) / 4), Tags: tags[:i%3]})
		}
		if err := db.Create(&author).Error; err != nil {
			return err
		}
	}
	return nil
}

func ref[T any](v T) *T { return &v }

// The features.

func connect() error {
	db, err := open("application_name='gorm drivers'")
	if err != nil {
		return err
	}
	defer shut(db)
	var settings struct{ Name, Zone, Encoding string }
	found := db.Raw("select current_setting('application_name') as name, current_setting('timezone') as zone, current_setting('client_encoding') as encoding").Scan(&settings)
	sayFound("settings", found, &settings)

	zoned, err := open("TimeZone=Asia/Kathmandu") // GORM's own way to say where times are
	if err != nil {
		return err
	}
	defer shut(zoned)
	var at string
	sayFound("time zone", zoned.Raw("select timestamptz '2024-02-29 12:34:56+00' :: text").Scan(&at), &at)

	_, err = open("password=wrong")
	say("wrong password", showLoginError(err))
	return nil
}

func migrate() error {
	db, err := open("")
	if err != nil {
		return err
	}
	defer shut(db)
	sayDone("drop", db.Exec("drop schema if exists "+shopSchema+" cascade"))
	sayDone("create", db.Exec("create schema "+shopSchema))
	say("migrate", showError(db.AutoMigrate(models...)))
	say("again", showError(db.AutoMigrate(models...)))
	for _, model := range models {
		columns, err := db.Migrator().ColumnTypes(model)
		if err != nil {
			return err
		}
		saw := []any{}
		for _, c := range columns {
			length, _ := c.Length()
			precision, scale, _ := c.DecimalSize()
			nullable, _ := c.Nullable()
			unique, _ := c.Unique()
			value, _ := c.DefaultValue()
			saw = append(saw, []any{c.Name(), c.DatabaseTypeName(), length, precision, scale, nullable, unique, value})
		}
		indexes, err := db.Migrator().GetIndexes(model)
		if err != nil {
			return err
		}
		var names []string
		for _, index := range indexes {
			names = append(names, index.Name())
		}
		slices.Sort(names)
		say(reflect.TypeOf(model).Elem().Name(), []any{saw, names})
	}
	m := db.Migrator()
	say("has", []bool{m.HasTable(&Book{}), m.HasColumn(&Book{}, "Price"), m.HasIndex(&Book{}, "Title"), m.HasConstraint(&Author{}, "Books"), m.HasColumn(&Book{}, "Pages")})
	type Tag struct {
		ID    uint
		Name  string `gorm:"size:80"`
		Shelf *string
	}
	say("changed", showError(db.AutoMigrate(&Tag{})))
	say("dropped", showError(m.DropColumn(&Tag{}, "Shelf")))
	return nil
}

func queries(db *gorm.DB) error {
	var book Book
	sayFound("loaded", db.Preload("Author").Where("title = ?", "Ada 2").First(&book), &book)
	book.Title, book.Price = `o'clock \ % ? $1`, nil
	sayDone("save", db.Save(&book))
	var again Book
	sayFound("found again", db.First(&again, book.ID), &again)
	sayDone("delete softly", db.Delete(&book))
	sayFound("gone", db.First(&Book{}, book.ID), nil)
	sayFound("still there", db.Unscoped().Select("id", "title").First(&again, book.ID), &again.Title)
	for i := range 8 {
		var some []Book
		sayFound("in", db.Select("id", "title").Where("id in ?", []int{i, i + 1, i + 2}).Order("id").Find(&some), &some)
	}
	var books []Book
	sayFound("like", db.Where("title like @t and price is not null", map[string]any{"t": "Bo%"}).Order("id desc").Offset(1).Limit(2).Find(&books), &books)
	sayFound("not", db.Not(map[string]any{"title": []string{"Ada 0", "Bo 0"}}).Where(db.Where("price > ?", 0.3).Or("title = ?", "Bo 1")).Order("id").Find(&books), &books)
	var totals []struct {
		Name  string
		N     int
		Total string
	}
	sayFound("group", db.Model(&Book{}).Select("a.name, count(*) as n, sum(price)::text as total").Joins("join gorm_shop.authors a on a.id = author_id").Group("a.name").Having("count(*) > ?", 1).Order("1").Scan(&totals), &totals)
	var titles []string
	sayFound("subquery", db.Model(&Book{}).Where("price > (?)", db.Model(&Book{}).Select("avg(price)")).Order("id").Pluck("title", &titles), &titles)
	sayFound("distinct", db.Model(&Book{}).Distinct("price").Order("price").Pluck("price", &titles), &titles)
	var n int64
	sayFound("count", db.Model(&Book{}).Where("title <> ''").Count(&n), &n)
	sayDone("update", db.Model(&Book{}).Where("id < ?", 5).Update("price", gorm.Expr("price * ?", 2)))
	sayDone("updates", db.Model(&Book{ID: 1}).Updates(map[string]any{"title": "new", "price": nil}))
	var returned []Book
	sayFound("returning", db.Model(&returned).Clauses(returning("id", "price")).Where("id < ?", 5).Update("price", 1), &returned)
	sayFound("first or create", db.FirstOrCreate(&Tag{}, Tag{Name: "old"}), nil)
	sayFound("first or create", db.Attrs(Tag{Name: "newer"}).FirstOrCreate(&Tag{}, Tag{Name: "new"}), nil)
	sayDone("upsert", db.Clauses(onConflict("name")).Create([]Tag{{Name: "old"}, {Name: "another"}}))
	sayDone("nothing on conflict", db.Clauses(onConflict("")).Create(&Tag{Name: "old"}))
	var row map[string]any
	sayFound("raw", db.Raw("select ?::int + 1 as n, ?::text as t, ?::text as nothing", 41, "x", nil).Scan(&row), &row)
	sayDone("several statements", db.Exec("select 1; select 2"))
	sayDone("delete", db.Unscoped().Where("title = ?", "Bo 0").Delete(&Book{}))
	sayDone("delete all without a condition", db.Delete(&Book{}))

	var batches []int
	sayDone("in batches", db.FindInBatches(&books, 3, func(_ *gorm.DB, _ int) error {
		batches = append(batches, len(books))
		return nil
	}))
	say("batches", batches)
	rows, err := db.Raw("select g, repeat('x', g % 50) from generate_series(1, ?::int) g", 2000).Rows()
	if err != nil {
		return err
	}
	defer rows.Close()
	sum := sha256.New()
	for rows.Next() {
		var g int
		var text string
		if err := rows.Scan(&g, &text); err != nil {
			return err
		}
		fmt.Fprintln(sum, g, text)
	}
	say("rows", []any{fmt.Sprintf("%x", sum.Sum(nil)), showError(rows.Err())})
	return nil
}

func bulk(db *gorm.DB) error {
	tags := make([]Tag, 3000)
	for i := range tags {
		tags[i].Name = fmt.Sprint("tag ", i)
	}
	sayDone("one statement", db.Create(&tags))
	say("ids", []uint{tags[0].ID, tags[2999].ID})
	for i := range tags {
		tags[i] = Tag{Name: fmt.Sprint("part ", i)}
	}
	sayDone("in batches", db.CreateInBatches(&tags, 700))
	authors := make([]Author, 150)
	for i := range authors {
		authors[i] = Author{Name: fmt.Sprint("author ", i), Books: []Book{{Title: fmt.Sprint("t ", i), Price: ref(float64(i))}}}
	}
	sayDone("with their books", db.Create(&authors))
	sayDone("duplicate among many", db.Create(&[]Tag{{Name: "a"}, {Name: "b"}, {Name: "a"}}))
	many := make([]Tag, 66_000)
	for i := range many {
		many[i].Name = fmt.Sprint("too many ", i)
	}
	sayDone("too many parameters", db.Create(&many))
	var count, books int64
	sayFound("count", db.Model(&Tag{}).Count(&count), &count)
	sayFound("books", db.Model(&Book{}).Joins("Author").Count(&books), &books)
	return nil
}

var errOurs = errors.New("rolls back")

func transactions(db *gorm.DB) error {
	names := func(step string) {
		var names []string
		sayFound(step, db.Model(&Author{}).Order("id").Pluck("name", &names), &names)
	}
	say("commits", showError(db.Transaction(func(tx *gorm.DB) error { return tx.Create(&Author{Name: "committed"}).Error })))
	say("throws", showError(db.Transaction(func(tx *gorm.DB) error {
		sayDone("insert", tx.Create(&Author{Name: "rolled back"}))
		return errOurs
	})))
	names("rolled back")
	say("nested", showError(db.Transaction(func(tx *gorm.DB) error {
		sayDone("outer", tx.Create(&Author{Name: "outer"}))
		for i := range 6 {
			say("savepoint", showError(tx.Transaction(func(nested *gorm.DB) error {
				sayDone("nested", nested.Create(&Author{Name: fmt.Sprint("nested ", i)}))
				return nested.Transaction(func(twice *gorm.DB) error {
					name := fmt.Sprint("twice nested ", i)
					if i%2 == 1 {
						name = "outer"
					}
					return twice.Create(&Author{Name: name}).Error
				})
			})))
		}
		return nil
	})))
	names("savepoints")
	tx := db.Begin()
	sayDone("by hand", tx.Create(&Author{Name: "by hand"}))
	sayDone("savepoint", tx.SavePoint("s"))
	sayDone("fails", tx.Create(&Author{Name: "by hand"}))
	sayDone("aborted", tx.Create(&Author{Name: "never"}))
	sayDone("rollback to", tx.RollbackTo("s"))
	sayDone("goes on", tx.Create(&Author{Name: "by hand, after the savepoint"}))
	sayDone("commit", tx.Commit())
	failed := db.Begin()
	sayDone("fails", failed.Create(&Author{Name: "by hand"}))
	sayDone("commit of what failed", failed.Commit())
	names("by hand")
	for _, options := range isolations {
		say("isolation", showError(db.Transaction(func(tx *gorm.DB) error {
			var level, readOnly string
			sayFound("level", tx.Raw("show transaction_isolation").Scan(&level), &level)
			sayFound("read only", tx.Raw("show transaction_read_only").Scan(&readOnly), &readOnly)
			return tx.Create(&Author{Name: level}).Error
		}, options)))
	}
	return db.Transaction(func(tx *gorm.DB) error {
		var ada, other Author
		sayFound("lock", tx.Clauses(forUpdate("")).Where("name = ?", "Ada").First(&ada), &ada)
		say("locked", showError(db.Transaction(func(beside *gorm.DB) error {
			return beside.Clauses(forUpdate("NOWAIT")).Where("name = ?", "Ada").First(&other).Error
		})))
		return db.Transaction(func(beside *gorm.DB) error {
			sayFound("skip locked", beside.Clauses(forUpdate("SKIP LOCKED")).Order("id").First(&other), &other)
			return nil
		})
	})
}

func relations(db *gorm.DB) error {
	var authors []Author
	byID := func(db *gorm.DB) *gorm.DB { return db.Order("id") }
	sayFound("preload", db.Preload("Books", byID).Preload("Books.Tags", byID).Order("id").Find(&authors), &authors)
	sayFound("preload some", db.Preload("Books", "price > ?", 0.3, byID).Order("id").Find(&authors), &authors)
	var books []Book
	sayFound("join", db.Joins("Author").Where(`"Author".name = ?`, "Bo").Order("books.id").Find(&books), &books)
	sayFound("join of many", db.Joins("join gorm_shop.book_tags bt on bt.book_id = books.id").Joins("join gorm_shop.tags t on t.id = bt.tag_id").Where("t.name = ?", "old").Order("books.id").Preload("Tags", byID).Find(&books), &books)
	ada := Author{ID: 1}
	say("append", showError(db.Model(&ada).Association("Books").Append(&Book{Title: "another", Price: ref(9.0), Tags: []Tag{{Name: "new"}}})))
	say("count", db.Model(&ada).Association("Books").Count())
	book := Book{ID: 3}
	say("replace", showError(db.Model(&book).Association("Tags").Replace([]Tag{{ID: 1}})))
	var tags []Tag
	say("find", []any{showError(db.Model(&book).Association("Tags").Find(&tags)), show(&tags)})
	say("clear", showError(db.Model(&book).Association("Tags").Clear()))
	sayDone("delete with its tags", db.Select("Tags").Unscoped().Delete(&Book{ID: 2}))
	var left []string
	sayFound("left", db.Model(&Book{}).Order("id").Pluck("title", &left), &left)
	return nil
}

func failures(db *gorm.DB) error {
	var n int64
	for _, c := range []struct {
		step string
		call func() *gorm.DB
	}{
		{"unique", func() *gorm.DB { return db.Create(&Author{Name: "Ada"}) }},
		{"check", func() *gorm.DB { return db.Create(&Book{Title: "t", Price: ref(-1.0), AuthorID: 1}) }},
		{"foreign key", func() *gorm.DB { return db.Create(&Book{Title: "t", AuthorID: 999}) }},
		{"not null", func() *gorm.DB { return db.Model(&Author{}).Create(map[string]any{"name": nil}) }},
		{"too long", func() *gorm.DB { return db.Create(&Author{Name: fmt.Sprintf("%051d", 1)}) }},
		{"division", func() *gorm.DB { return db.Raw("select 1 / ?::int", 0).Scan(&n) }},
		{"division, after rows", func() *gorm.DB {
			return db.Raw("select 1 / (3 - g) from generate_series(1, ?::int) g", 5).Scan(&[]int{})
		}},
		{"syntax", func() *gorm.DB { return db.Exec("selec ?", 1) }},
		{"no such table", func() *gorm.DB { return db.Exec("select * from nowhere") }},
		{"not a number", func() *gorm.DB { return db.Raw("select ?::int", "x").Scan(&n) }},
		{"not found", func() *gorm.DB { return db.First(&Author{}, -1) }},
		{"cancelled", func() *gorm.DB {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			return db.WithContext(ctx).Exec("select pg_sleep(30)")
		}},
	} {
		sayDone(c.step, c.call())
		sayFound("goes on", db.Model(&Book{}).Count(&n), &n)
	}
	translating, err := gorm.Open(postgres.Open(""), &gorm.Config{
		Logger: logger.Discard, TranslateError: true, NamingStrategy: schema.NamingStrategy{TablePrefix: shopSchema + "."},
	})
	if err != nil {
		return err
	}
	defer shut(translating)
	say("translated", errors.Is(translating.Create(&Author{Name: "Ada"}).Error, gorm.ErrDuplicatedKey))
	return nil
}

func types(db *gorm.DB) error {
	kathmandu := time.FixedZone("", (5*60+45)*60)
	at := time.Date(2024, 2, 29, 12, 34, 56, 789_000, kathmandu)
	sayDone("create", db.Create(&Thing{
		At: &at, Local: ref(at.UTC()), Day: ref(time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)), Took: ref("3 days 00:00:04.5"), Price: ref("12345.678900"),
		Big: ref(int64(1) << 60), Ratio: ref(0.1), Document: map[string]any{"a": []any{1, nil, "grüße 🌊"}, "b": map[string]any{"c": 1.5}},
		Numbers: ref("{1,NULL,3}"), Words: ref(`{a,"b c",NULL}`), Mood: ref("sad"), Raw: []byte{0, 255},
	}))
	sayDone("create empty", db.Create(&Thing{}))
	var things []Thing
	found := db.Order("id").Find(&things)
	for i := range things {
		if things[i].At != nil {
			things[i].At = ref(things[i].At.UTC())
		}
	}
	sayFound("things", found, &things)
	say("a key of its own", len(things) == 2 && len(things[1].Key) == 36)
	var words []map[string]any
	sayFound("in the server's words", db.Raw("select at::text, local::text, took::text, price::text, document::text, numbers::text, words::text from gorm_shop.things order by id").Scan(&words), &words)
	for _, c := range []struct {
		step, where string
		args        []any
	}{
		{"json", "document -> 'b' ->> 'c' = ?", []any{"1.5"}},
		{"contains", "document @> ?", []any{`{"a": [1]}`}},
		{"array", "? = any(numbers)", []any{3}},
		{"overlap", "words && ?::text[]", []any{"{b c,x}"}},
		{"slice", "id = any(?)", []any{pgArray{1, 3}}},
		{"enum", "mood = ?", []any{"happy"}},
		{"time", "at < ?", []any{time.Date(2024, 2, 29, 7, 0, 0, 0, time.UTC)}},
		{"decimal", "price > ?", []any{"12345.6788"}},
		{"bytes", "raw = ?", []any{[]byte{0, 255}}},
	} {
		var ids []uint
		sayFound(c.step, db.Model(&Thing{}).Where(c.where, c.args...).Order("id").Pluck("id", &ids), &ids)
	}
	large := strings.Repeat("v", 2<<20)
	var same string
	sayFound("large", db.Raw("select ?::text", large).Scan(&same), &same)
	return nil
}

// prepared is GORM's own cache of prepared statements, on top of the one of pgx.
func prepared(db *gorm.DB) error {
	db = db.Session(&gorm.Session{PrepareStmt: true})
	for i := range 12 {
		var books []Book
		sayFound("find", db.Select("id", "title").Where("id >= ?", i).Order("id").Limit(2).Find(&books), &books)
		sayDone("create", db.Create(&Tag{Name: fmt.Sprint("prepared ", i/2)})) // each second one fails
		say("transaction", showError(db.Transaction(func(tx *gorm.DB) error {
			var n int64
			sayFound("count", tx.Model(&Tag{}).Where("id > ?", i).Count(&n), &n)
			return tx.Create(&Counter{N: i}).Error
		})))
	}
	sayDone("alter", db.Exec("alter table gorm_shop.counters add column extra text"))
	var counters []Counter
	sayFound("after it", db.Order("id").Limit(2).Find(&counters), &counters)
	sayDone("alter", db.Exec("alter table gorm_shop.counters drop column extra"))
	sayFound("after it", db.Order("id").Limit(2).Find(&counters), &counters)
	return nil
}

func concurrently(db *gorm.DB) error {
	if err := db.Create(&[]Counter{{}, {}, {}}).Error; err != nil {
		return err
	}
	failed := make(chan error)
	for worker := range 6 {
		go func() { failed <- count(db, worker) }()
	}
	var all []error
	for range 6 {
		all = append(all, <-failed)
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	var sum int
	sayFound("counted", db.Model(&Counter{}).Select("sum(n)").Scan(&sum), &sum)
	return nil
}

// count adds to counters in transactions of which each fourth is rolled back.
func count(db *gorm.DB, worker int) error {
	for i := range 12 {
		err := db.Transaction(func(tx *gorm.DB) error {
			var counter Counter
			if err := tx.Clauses(forUpdate("")).First(&counter, (worker+i)%3+1).Error; err != nil {
				return err
			}
			if err := tx.Model(&counter).Update("n", counter.N+1).Error; err != nil {
				return err
			}
			if i%4 == 3 {
				return errOurs
			}
			return nil
		})
		if err != nil && !errors.Is(err, errOurs) {
			return err
		}
	}
	return nil
}

func session() error {
	db, err := open("")
	if err != nil {
		return err
	}
	defer shut(db)
	return db.Connection(func(conn *gorm.DB) error {
		for _, sql := range []string{
			"set timezone = 'Asia/Tokyo'", "create temp table mine (n int)", "insert into mine values (1)", "set search_path = gorm_shop, public",
		} {
			sayDone(sql, conn.Exec(sql))
		}
		for _, sql := range []string{"show timezone", "select n::text from mine", "select (count(*) > 0)::text from authors", "select pg_try_advisory_lock(7)::text"} {
			var saw string
			sayFound(sql, conn.Raw(sql).Scan(&saw), &saw)
		}
		return nil
	})
}

// turns makes two pools of one connection each share one server connection, transaction by transaction. pgx has prepared
// the same texts on both, and others.
func turns(*gorm.DB) error {
	var clients [2]*gorm.DB
	for i := range clients {
		db, err := open("dbname=" + os.Getenv("PGDATABASE_ONE"))
		if err != nil {
			return err
		}
		defer shut(db)
		pool, err := db.DB()
		if err != nil {
			return err
		}
		pool.SetMaxOpenConns(1)
		clients[i] = db
	}
	for round := range 12 {
		for i, db := range clients {
			say("transaction", showError(db.Transaction(func(tx *gorm.DB) error {
				author := Author{Name: fmt.Sprintf("client %d, round %d", i, round), Books: []Book{{Title: "t", Price: ref(float64(round))}}}
				sayDone("create", tx.Create(&author))
				var names []string
				sayFound("in it", tx.Model(&Author{}).Order("id desc").Limit(2).Pluck("name", &names), &names)
				if round%3 == 2 {
					return errOurs
				}
				return nil
			})))
			var total float64
			sayFound("after it", db.Model(&Book{}).Select("sum(price)").Scan(&total), &total)
			sayFound("its own", db.Raw(fmt.Sprintf("select %d + ?::int", i), round).Scan(&total), &total)
		}
	}
	return nil
}
