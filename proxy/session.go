package proxy

// Session is one client that is logged in, as it was when it was looked at.
type Session struct {
	ID              uint32   `json:"id" help:"The process number that weir told the client, as in psql's \"backend PID\". Not the server's: see server_pid."`
	Resource        string   `json:"resource" help:"The resource, which is the database that the client asked for."`
	User            string   `json:"user" help:"Whom the client logged in as."`
	Database        string   `json:"database" help:"The database of the upstream."`
	ApplicationName string   `json:"application_name" help:"What the client calls itself, by its startup packet or SET."`
	Client          string   `json:"client" help:"Address and port; empty where there is none."`
	State           string   `json:"state" help:"See below."`
	PinnedBy        []string `json:"pinned_by" help:"Why the session keeps its server connection between transactions; empty when it does not."`
	StateMillis     int64    `json:"state_ms" help:"For how long the session has been in this state, in milliseconds."`
	ServerPID       uint32   `json:"server_pid" help:"The process of the server connection it has, as in pg_stat_activity; 0 when it has none."`
}

// The states of a session.
const (
	Idle              = "idle"
	Waiting           = "waiting"
	Active            = "active"
	IdleInTransaction = "idle in transaction"
	Pinned            = "pinned"
)

// Term is a word of an answer, and what it means.
type Term struct{ Name, Meaning string }

// SessionStates are all there are.
var SessionStates = []Term{
	{Idle, "no transaction, and no server connection"},
	{Waiting, "in the queue for a server connection"},
	{Active, "a statement runs, or its answer is on the way"},
	{IdleInTransaction, "the client has an open transaction and says nothing; before its first statement it has no server connection yet"},
	{Pinned, "no transaction, but a server connection that the session keeps"},
}

// PinReasons are all that a session may be pinned by.
var PinReasons = []Term{
	{"set", "a parameter that cannot be moved to another connection"},
	{"prepare", "a statement of SQL's PREPARE"},
	{"listen", "a channel it listens to"},
	{"temp_table", "something in its temporary schema"},
	{"cursor_with_hold", "a holdable cursor"},
	{"advisory_lock", "an advisory lock"},
	{"load", "a library of LOAD"},
	{"large_statement", "prepared statements too large to be moved"},
	{"sequence", "what lastval and currval return"},
	{"connection", "a connection of dblink, or what else ends with the connection only"},
	{PinnedByMode, "pool_mode: session"},
	{PinnedByReplication, "a walsender of its own"},
	{PinnedByDoubt, "spoken so that weir cannot tell what the server will answer; the connection goes with the client"},
}

// StallReasons are what a client may keep its server connection waiting with.
var StallReasons = []Term{
	{"message", "the rest of a message did not come"},
	{"batch", "a batch of the extended protocol was not ended by a Sync"},
	{"copy", "the data of COPY FROM STDIN did not come"},
	{"reading", "the client did not read what it had asked for"},
}

// Reasons to keep a server connection that are no metric's label: there is nothing in the session.
const (
	PinnedByMode        = "pool_mode"
	PinnedByReplication = "replication"
	PinnedByDoubt       = "uncertain"
)

// SessionFilter says which sessions are wanted. Empty fields ask for all.
type SessionFilter struct {
	Resource string
	State    string
	Limit    int // at most so many
}
