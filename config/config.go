// Package config is what an operator may write: the file weir.yaml.
//
// Load reads it, expands ${ENV} and ${file:…} in values, and checks everything before anything is used: each mistake
// is a Problem with its line, and one mistake is enough for no Config at all. What is legal but probably not meant is a
// warning.
//
// Each setting has one home: a field with its key (yaml), an example (eg), and a comment that says what it does and
// ends with its default in parentheses. The fields of limiter, breaker, fleet and pool live in those packages, beside
// the code that obeys them. Problems, docs/reference/configuration.md and the checks of both are made from these.
//
// A field's weir tag holds, separated by commas:
//
//	required    the key must be written where its section is
//	zero=word   0 may be written, and means word; elsewhere numbers and durations must be above 0
//	short       the section may be written as this key's value alone
//	dsn         holds a password somewhere inside: never quoted, and ${…} in the place of the password is encoded
//	path        a file; relative to the directory of the configuration file
//	later       checked, but has no effect in this version
package config

import (
	"time"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pool"
)

// Config is the whole file.
type Config struct {
	Listen       string              `yaml:"listen" eg:"0.0.0.0:6432"`                                                   // host:port where functions connect; port 0 takes any free one (127.0.0.1:6432)
	Admin        Admin               `yaml:"admin" eg:"127.0.0.1:8432"`                                                  // the HTTP listener for metrics and health; an address alone will do
	AdminUsers   []string            `yaml:"admin_users" weir:"later" eg:"[sre]"`                                        // users who may use the SQL console (nobody)
	StatsUsers   []string            `yaml:"stats_users" weir:"later" eg:"[grafana]"`                                    // users who may only SHOW in the SQL console (nobody)
	Fleet        *fleet.Config       `yaml:"fleet" eg:"{ redis: \"redis://redis:6379/0\", name: prod }"`                 // the Redis shared with other weirs (this process is the whole fleet)
	TLS          TLS                 `yaml:"tls" eg:"{ mode: prefer, cert: server.crt, key: server.key }"`               // TLS between functions and weir
	Auth         Auth                `yaml:"auth" eg:"{ method: scram-sha-256 }"`                                        // how clients prove who they are
	Users        map[string]User     `yaml:"users" eg:"{ app: { password: \"${APP_PASSWORD}\" } }"`                      // who may log in, by name (nobody)
	Resources    map[string]Resource `yaml:"resources" weir:"required" eg:"{ orders: { upstream: \"${ORDERS_DSN}\" } }"` // the databases, by the name that functions ask for
	Limits       Limits              `yaml:"limits" eg:"{ clients: 50000 }"`                                             // what one process accepts
	Log          Log                 `yaml:"log" eg:"{ level: info, format: json }"`                                     // what is logged, and how
	DrainTimeout time.Duration       `yaml:"drain_timeout" weir:"zero=no waiting" eg:"30s"`                              // how long running transactions may go on after SIGTERM before they are cut off (30s)
}

// Admin is the HTTP listener for metrics, health and the API. Without tokens it must stay on loopback.
type Admin struct {
	Listen     string `yaml:"listen" weir:"short" eg:"127.0.0.1:8432"`  // host:port (127.0.0.1:8432)
	ReadToken  Secret `yaml:"read_token" eg:"\"${WEIR_READ_TOKEN}\""`   // bearer token that may read (loopback reads without one)
	WriteToken Secret `yaml:"write_token" eg:"\"${WEIR_WRITE_TOKEN}\""` // bearer token that may also change things (nothing can be changed)
	Pprof      bool   `yaml:"pprof" eg:"true"`                          // loopback may profile the process at /debug/pprof/ without the write token; a profile shows what the process is doing, and takes its time (false)
}

// TLSMode says which clients may come without TLS and what is asked of their certificates.
type TLSMode string

// The TLS modes.
const (
	TLSDisable    TLSMode = "disable"     // no TLS is offered
	TLSPrefer     TLSMode = "prefer"      // offered
	TLSRequire    TLSMode = "require"     // clients without TLS are refused
	TLSVerifyCA   TLSMode = "verify-ca"   // clients need a certificate that client_ca signed
	TLSVerifyFull TLSMode = "verify-full" // and its common name is the user they log in as
)

// TLS is the encryption between functions and weir; what weir does towards a database is sslmode in its upstream.
// Certificates are PEM files; their paths are relative to the configuration file.
//
// Modes: disable offers none; prefer offers it; require refuses clients without it; verify-ca also asks clients for a
// certificate that client_ca signed; verify-full also wants its common name to be the user.
type TLS struct {
	Mode     TLSMode `yaml:"mode" weir:"required" eg:"prefer"`  // disable | prefer | require | verify-ca | verify-full (disable)
	Cert     string  `yaml:"cert" weir:"path" eg:"server.crt"`  // certificate with its chain; needed unless mode is disable
	Key      string  `yaml:"key" weir:"path" eg:"server.key"`   // private key of cert; needed unless mode is disable
	ClientCA string  `yaml:"client_ca" weir:"path" eg:"ca.crt"` // authorities of client certificates; needed by verify-ca and verify-full
}

// AuthMethod is the way clients prove who they are, in the words of pg_hba.conf.
type AuthMethod string

// The methods.
const (
	AuthTrust    AuthMethod = "trust"
	AuthPassword AuthMethod = "password"
	AuthMD5      AuthMethod = "md5"
	AuthSCRAM    AuthMethod = "scram-sha-256"
)

// Auth says how clients prove who they are.
type Auth struct {
	Method  AuthMethod `yaml:"method" eg:"scram-sha-256"`                        // trust | password | md5 | scram-sha-256 (scram-sha-256)
	MockKey Secret     `yaml:"mock_key" eg:"\"${file:/var/lib/weir/mock_key}\""` // random text, of which the salts that unknown users are shown are made, as by openssl rand -base64 32; weirs with the same one show the same (one that the fleet keeps in Redis; without a fleet a random one, new with each start)
}

// User is somebody who may log in to weir. Towards the database weir is always the user of the resource's upstream.
type User struct {
	Password Secret `yaml:"password" eg:"\"${APP_PASSWORD}\""` // SCRAM verifier or md5 hash as in pg_authid.rolpassword, or the password itself; needed unless auth.method is trust
}

// Kind is the protocol a resource speaks.
type Kind string

// Postgres is the one kind so far.
const Postgres Kind = "postgres"

// PoolMode says how long a client keeps a server connection.
type PoolMode string

// The pool modes.
const (
	PoolTransaction PoolMode = "transaction" // until its transaction ends
	PoolSession     PoolMode = "session"     // until it disconnects
	PoolStatement   PoolMode = "statement"   // until its statement ends; transactions of several statements are refused
)

// Pinning says what becomes of sessions that leave something on their server connection.
type Pinning string

// The kinds of pinning.
const (
	Pin     Pinning = "pin"    // they keep it
	PinWarn Pinning = "warn"   // they keep it, and that is logged
	PinNot  Pinning = "refuse" // they are refused
)

// Reset says when a server connection is put back to what it was before anybody had it.
type Reset string

// The kinds of reset.
const (
	ResetDetected Reset = "detected" // when a session was seen to leave something
	ResetAlways   Reset = "always"   // whenever it comes to another client
)

// Resource is one database with its budget and its rules.
type Resource struct {
	Kind        Kind                 `yaml:"kind" eg:"postgres"`                                                                                     // postgres (postgres)
	Upstream    DSN                  `yaml:"upstream" weir:"required,dsn" eg:"\"postgres://app:${DB_PASSWORD}@db:5432/orders?sslmode=verify-full\""` // how weir reaches the database and logs in, for all clients: a URL or key=value pairs as libpq knows them
	Connections int                  `yaml:"connections" eg:"80"`                                                                                    // the budget: server connections of the whole fleet (20)
	PoolMode    PoolMode             `yaml:"pool_mode" eg:"transaction"`                                                                             // transaction | session | statement: how long a client keeps a server connection (transaction)
	Pinning     Pinning              `yaml:"pinning" eg:"refuse"`                                                                                    // pin | warn | refuse: what becomes of a session in pool mode transaction or statement that leaves something on its server connection which cannot follow it to another, as LISTEN does: it keeps the connection, and that is logged, or it is refused (pin)
	Pinned      int                  `yaml:"pinned" weir:"zero=off" eg:"10"`                                                                         // sessions that may keep a server connection so at once; the next one is refused (a quarter of connections, at least 1, and more as long as nobody waits for one)
	Reset       Reset                `yaml:"reset" eg:"always"`                                                                                      // detected | always: in pool mode transaction or statement, what a session leaves on a server connection is put back where it was noticed, or everything is whenever the connection comes to another client; docs/explanation/pooling.md says who needs that (detected)
	Statements  Statements           `yaml:"statements" eg:"{ max_age: 10m }"`                                                                       // prepared statements, which clients share
	Rate        *limiter.Rate        `yaml:"rate" eg:"{ per_second: 2000, burst: 500 }"`                                                             // transactions that may start, whole fleet (unlimited)
	Queue       limiter.Queue        `yaml:"queue" eg:"{ wait: 2s, length: auto, patience: auto }"`                                                  // clients that wait for a server connection
	Adaptive    *limiter.Adaptive    `yaml:"adaptive" eg:"{ min: 4 }"`                                                                               // limit on running transactions below the budget, found from how long they take (enabled)
	Breaker     breaker.Config       `yaml:"breaker" eg:"{ failures: 3, cooldown: 1s }"`                                                             // stops asking a database that does not answer
	Timeouts    Timeouts             `yaml:"timeouts" eg:"{ connect: 5s, idle_in_transaction: 60s }"`                                                // how long things may take
	Callers     []limiter.CallerRule `yaml:"callers" eg:"[{ name: reports, match: { user: reports } }]"`                                             // rules for some of the clients; the first match wins (everybody is the same)
}

// Statements are the prepared statements that the clients of one resource share.
type Statements struct {
	PerClient int           `yaml:"per_client" weir:"zero=any" eg:"8"` // text that one client may have prepared, in MB; what it prepares beyond is refused (8)
	PerUser   int           `yaml:"per_user" weir:"zero=any" eg:"32"`  // text that all clients of one user may have prepared, in MB; the clients of a resource share 64 (32)
	MaxAge    time.Duration `yaml:"max_age" weir:"zero=off" eg:"10m"`  // age at which a statement is made anew when a client prepares it, in case the schema was changed other than through weir (10m)
}

// Timeouts bound how long things may take on one resource.
type Timeouts struct {
	Connect           time.Duration `yaml:"connect" eg:"5s"`                                            // dialling and logging in to the server (5s)
	TCPUserTimeout    time.Duration `yaml:"tcp_user_timeout" weir:"zero=as the system has it" eg:"15s"` // a server that confirms nothing of what it is sent, nor a question whether it is still there, then its connection is taken to be lost; keepalives and tcp_user_timeout in upstream win (15s)
	Query             time.Duration `yaml:"query" weir:"zero=off" eg:"30s"`                             // one statement, then it is cancelled (off)
	IdleInTransaction time.Duration `yaml:"idle_in_transaction" weir:"zero=off" eg:"60s"`               // a client that is silent inside a transaction, then it is disconnected and the transaction rolled back (1m)
	ClientStall       time.Duration `yaml:"client_stall" weir:"zero=off" eg:"30s"`                      // a client that stops in the middle of a message, a batch, or COPY, or does not read its result, then what it began is rolled back and others have its server connection; idle_in_transaction bounds that, too (30s)
	ClientIdle        time.Duration `yaml:"client_idle" weir:"zero=off" eg:"1h"`                        // a client that is silent outside a transaction, then it is disconnected (off)
	ServerLifetime    time.Duration `yaml:"server_lifetime" weir:"zero=off" eg:"1h"`                    // age at which an idle server connection is replaced, less up to 20 % jitter (1h)
	ServerIdle        time.Duration `yaml:"server_idle" weir:"zero=off" eg:"10m"`                       // rest after which a server connection is closed, less up to 20 % jitter (10m)
}

// Limits protect one process from too many clients.
type Limits struct {
	Clients         int           `yaml:"clients" eg:"50000"`                                         // connected clients (50000)
	Unauthenticated int           `yaml:"unauthenticated" eg:"500"`                                   // clients that have not logged in yet (500)
	LoginTimeout    time.Duration `yaml:"login_timeout" eg:"10s"`                                     // from accept to the end of the login (10s)
	TCPUserTimeout  time.Duration `yaml:"tcp_user_timeout" weir:"zero=as the system has it" eg:"30s"` // a client whose machine confirms nothing of what it is sent, nor a question whether it is still there, or that takes nothing of it, then it is disconnected (30s)
}

// Log says what is logged, and how. It goes to standard error.
type Log struct {
	Level  string `yaml:"level" eg:"info"`  // debug | info | warn | error (info)
	Format string `yaml:"format" eg:"json"` // text | json (text)
}

// Pool is the shelf life of the resource's server connections. A timeout that is off becomes pool.Never.
func (r Resource) Pool() pool.Config {
	return pool.Config{
		Connections:    r.Connections,
		Connect:        r.Timeouts.Connect,
		ServerLifetime: orNever(r.Timeouts.ServerLifetime),
		ServerIdle:     orNever(r.Timeouts.ServerIdle),
	}
}

// pinnedAuto stands for a Pinned that was not written.
const pinnedAuto = -1

// SoftPins reports whether more may as long as nobody waits for one.
func (r Resource) SoftPins() bool { return r.Pinned == pinnedAuto }

// MostPinned is how many sessions may keep a server connection at once; 0: any number.
func (r Resource) MostPinned() int {
	if r.Pinned == pinnedAuto {
		return max(1, r.Connections/4)
	}
	return r.Pinned
}

func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return pool.Never
	}
	return d
}

// Default is what an empty file would mean if resources could be left out.
func Default() *Config {
	return &Config{
		Listen:       "127.0.0.1:6432",
		Admin:        Admin{Listen: "127.0.0.1:8432"},
		TLS:          TLS{Mode: TLSDisable},
		Auth:         Auth{Method: AuthSCRAM},
		Limits:       Limits{Clients: 50000, Unauthenticated: 500, LoginTimeout: 10 * time.Second, TCPUserTimeout: 30 * time.Second},
		Log:          Log{Level: "info", Format: "text"},
		DrainTimeout: 30 * time.Second,
	}
}

// DefaultResource is a resource of which only the upstream is missing.
func DefaultResource() Resource {
	shelf := pool.Config{}.WithDefaults()
	return Resource{
		Kind:        Postgres,
		Connections: shelf.Connections,
		PoolMode:    PoolTransaction,
		Pinning:     Pin,
		Pinned:      pinnedAuto,
		Reset:       ResetDetected,
		Statements:  Statements{PerClient: 8, PerUser: 32, MaxAge: 10 * time.Minute},
		Queue:       limiter.Queue{}.WithDefaults(),
		Adaptive:    new(limiter.Adaptive{Enabled: true}.WithDefaults()),
		Breaker:     breaker.Config{}.WithDefaults(),
		Timeouts: Timeouts{
			Connect:           shelf.Connect,
			IdleInTransaction: time.Minute,
			TCPUserTimeout:    15 * time.Second,
			ClientStall:       30 * time.Second,
			ServerLifetime:    shelf.ServerLifetime,
			ServerIdle:        shelf.ServerIdle,
		},
	}
}
