package upstream

import (
	"crypto/tls"
	_ "embed"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keyword is a setting of a connection string that is not for the server, though pgconn takes it for a run-time parameter.
type keyword struct {
	name string
	take func(r *reading, name, value string) *Mistake // nil: read by placeHosts
}

// keywords are libpq's that pgconn does not know.
var keywords = []keyword{
	{"hostaddr", nil},
	{"keepalives", whole(func(o *socketOptions) **int { return &o.keepAlives })},
	{"keepalives_idle", whole(func(o *socketOptions) **int { return &o.idle })},
	{"keepalives_interval", whole(func(o *socketOptions) **int { return &o.interval })},
	{"keepalives_count", whole(func(o *socketOptions) **int { return &o.count })},
	{"tcp_user_timeout", whole(func(o *socketOptions) **int { return &o.userTimeout })},
	{"fallback_application_name", (*reading).fallbackName},
	{"client_encoding", (*reading).encoding},
	{"ssl_min_protocol_version", tlsVersion(func(v *tlsVersions) *uint16 { return &v.min })},
	{"ssl_max_protocol_version", tlsVersion(func(v *tlsVersions) *uint16 { return &v.max })},
	{"gssencmode", oneOf("weir does not encrypt by GSSAPI", "disable", "prefer")},
	{"gssdelegation", oneOf("weir does not speak GSSAPI", "0")},
	{"gsslib", ignored}, // which library is asked for what weir never does
	{"sslcompression", oneOf("TLS has no compression any more", "0")},
	{"load_balance_hosts", (*reading).loadBalance},
	{"replication", oneOf("a replication connection is for a client to ask for", "false", "off", "no", "0")},
	{"authtype", ignored}, // libpq takes these and does nothing
	{"tty", ignored},
	{"sslcrl", refuse("weir does not read revocation lists", "the upstream without it, and certificates that live for a short time")},
	{"sslcrldir", refuse("weir does not read revocation lists", "the upstream without it, and certificates that live for a short time")},
	{"sslkeylogfile", refuse("weir does not write down the keys of its connections", "the upstream without it")},
	{"requirepeer", refuse("weir does not ask who owns a socket", "the upstream without it, and a directory that only the database's user may write to")},
	{"requiressl", refuse("it is an old word for sslmode", "sslmode=verify-full, or sslmode=require")},
	{"ssl", refuse("it is not libpq's", "sslmode=verify-full, or sslmode=require")},
	{"scram_client_key", refuse("weir logs in with a password", "the upstream without it")},
	{"scram_server_key", refuse("weir logs in with a password", "the upstream without it")},
	{"oauth_issuer", refuse("weir does not log in by OAuth", "the upstream without it")},
	{"oauth_client_id", refuse("weir does not log in by OAuth", "the upstream without it")},
	{"oauth_client_secret", refuse("weir does not log in by OAuth", "the upstream without it")},
	{"oauth_scope", refuse("weir does not log in by OAuth", "the upstream without it")},
}

// others are what drivers, their pools and other poolers take in a connection string, and what to write instead. Their names
// are compared without regard to case and underscores.
var others = []struct{ names, whose, instead string }{
	{"schema currentSchema schema_search_path", "the way of Prisma, JDBC and Rails to say search_path", "options=-csearch_path%3Dname, or search_path=name"},
	{
		"connection_limit pool_max_conns max_pool_size maxPoolSize maximum_pool_size pool_size pool max minPoolSize pool_min_conns pool_min_idle_conns max_overflow conn_max_age max_connections",
		"a size of a driver's own pool", "connections beside upstream",
	},
	{
		"pool_timeout checkout_timeout loginTimeout connectTimeout connectionTimeoutMillis connectionTimeout acquire_timeout",
		"a timeout of a driver", "connect_timeout=seconds here, or timeouts and queue.wait beside upstream",
	},
	{
		"socket_timeout socketTimeout query_timeout command_timeout commandTimeout cancelSignalTimeout",
		"a timeout of a driver", "timeouts.query beside upstream, or statement_timeout=milliseconds",
	},
	{
		"pool_max_conn_lifetime pool_max_conn_lifetime_jitter pool_max_conn_idle_time pool_health_check_period max_lifetime maxLifetime idle_timeout idleTimeout idleTimeoutMillis max_idle_connection_lifetime max_connection_lifetime",
		"a setting of a driver's own pool", "timeouts.server_lifetime and timeouts.server_idle beside upstream",
	},
	{"pgbouncer", "an option of Prisma's client for poolers", ""},
	{
		"statement_cache_size statement_cache_capacity statement_cache_mode description_cache_capacity default_query_exec_mode prefer_simple_protocol prepareThreshold preparedStatementCacheQueries preparedStatementCacheSizeMiB preferQueryMode prepared_statements prepared_statement_cache_size prepared_statement_name_func binary_parameters disable_prepared_binary_result prepare fetch_types statementCacheSize",
		"how a driver prepares statements", "",
	},
	{
		"sslaccept sslidentity sslinline trustServerCertificate uselibpqcompat sslfactory sslhostnameverifier sslpasswordcallback",
		"how a driver checks certificates", "sslmode, sslrootcert, sslcert and sslkey",
	},
	{"ApplicationName", "the way of JDBC and others to say application_name", "application_name=name"},
	{"tcpKeepAlive keepAlive keep_alive", "a socket option of a driver", "keepalives=1"},
	{"targetServerType loadBalanceHosts hostRecheckSeconds", "how a driver chooses a server", "target_session_attrs and load_balance_hosts"},
	{"gssEncMode sspiServiceClass useSpnego jaasLogin jaasApplicationName kerberosServerName", "how a driver logs in", ""},
	{"pool_mode auth_user auth_query auth_dbname connect_query reserve_pool min_pool_size reserve_pool_size load_balance", "a setting of PgBouncer's", "weir's own settings beside upstream"},
	{"adapter encoding variables min_messages reaping_frequency advisory_locks reconnect engine", "a setting of a framework", "client_encoding and other parameters of PostgreSQL by their names"},
	{
		"defaultRowFetchSize reWriteBatchedInserts binaryTransfer binaryTransferEnable binaryTransferDisable assumeMinServerVersion stringtype autosave readOnly readOnlyMode logUnclosedConnections loggerLevel loggerFile databaseMetadataCacheFields unknownLength allowEncodingChanges disableColumnSanitiser cleanupSavepoints receiveBufferSize sendBufferSize protocolVersion escapeSyntaxCallMode adaptiveFetch maxResultBuffer hideUnprivilegedObjects groupStartupParameters socketFactory socketFactoryArg xmlFactoryFactory localSocketAddress quoteReturningIdentifiers channelBinding",
		"an option of JDBC's driver", "",
	},
	{"pooling minimum_pool_size multiplexing no_reset_on_close include_error_detail async_fallback single_use_connections workaround supa", "an option of a driver", ""},
}

// readKeywords takes from what pgconn would send to the server all that is not meant for it.
func (r *reading) readKeywords() error {
	params := r.cfg.RuntimeParams
	if _, nameless := params[""]; nameless { // would end the list of parameters in a startup packet
		return &Mistake{"has a value without a name", Shape}
	}
	for _, k := range keywords {
		value, ok := params[k.name]
		if !ok || k.take == nil {
			continue
		}
		delete(params, k.name)
		if mistake := k.take(r, k.name, value); mistake != nil {
			return mistake
		}
	}
	for _, name := range r.names() {
		for _, row := range others {
			i := slices.IndexFunc(strings.Fields(row.names), func(n string) bool {
				return n == name || fold(n) == fold(name) && !parameters[strings.ToLower(name)]
			})
			if i >= 0 {
				expected := "the upstream without it"
				if row.instead != "" {
					expected = row.instead
				}
				return &Mistake{"has " + strings.Fields(row.names)[i] + ", " + row.whose + ", which means nothing to the server", expected}
			}
		}
	}
	if v := r.versions; v.min != 0 && v.max != 0 && v.min > v.max {
		return &Mistake{"has a ssl_min_protocol_version above its ssl_max_protocol_version", "the lower one first"}
	}
	return nil
}

func fold(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

func ignored(*reading, string, string) *Mistake { return nil }

// oneOf takes those values that ask for nothing; any other would be a promise that weir does not keep.
func oneOf(why string, values ...string) func(*reading, string, string) *Mistake {
	return func(_ *reading, name, value string) *Mistake {
		if value == "" || slices.Contains(values, value) {
			return nil
		}
		return &Mistake{"has a " + name + " that weir cannot honour: " + why, name + "=" + values[0] + ", or the upstream without it"}
	}
}

// refuse is for what would not be safe to ignore.
func refuse(why, expected string) func(*reading, string, string) *Mistake {
	return func(_ *reading, name, value string) *Mistake {
		if value == "" {
			return nil
		}
		return &Mistake{"has " + name + ", which weir does not take: " + why, expected}
	}
}

// whole reads a number as libpq does: blanks around it are allowed, and what is below 0 counts as 0.
func whole(option func(*socketOptions) **int) func(*reading, string, string) *Mistake {
	return func(r *reading, name, value string) *Mistake {
		if value == "" {
			return nil
		}
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
		if err != nil {
			return &Mistake{"has a " + name + " that is not a whole number", name + "=30"}
		}
		*option(&r.sockets) = new(max(0, int(n)))
		return nil
	}
}

func (r *reading) fallbackName(_, value string) *Mistake {
	if r.cfg.RuntimeParams["application_name"] == "" && value != "" {
		r.cfg.RuntimeParams["application_name"] = value
	}
	return nil
}

// encoding takes libpq's auto, the encoding of the locale, for UTF-8: weir has no locale, and whoever reads the string does today.
func (r *reading) encoding(_, value string) *Mistake {
	if value == "auto" {
		value = "UTF8"
	}
	if value != "" {
		r.cfg.RuntimeParams["client_encoding"] = value
	}
	return nil
}

func (r *reading) loadBalance(_, value string) *Mistake {
	switch value {
	case "", "disable":
	case "random":
		r.random = true
	default:
		return &Mistake{"has an unknown load_balance_hosts", "one of disable, random"}
	}
	return nil
}

// tlsVersions bounds what is agreed on with the server; 0 is Go's default.
type tlsVersions struct{ min, max uint16 }

func tlsVersion(bound func(*tlsVersions) *uint16) func(*reading, string, string) *Mistake {
	return func(r *reading, name, value string) *Mistake {
		known := map[string]uint16{"tlsv1": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13}
		version, ok := known[strings.ToLower(value)]
		if !ok && value != "" {
			return &Mistake{"has an unknown " + name, "one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3"}
		}
		*bound(&r.versions) = version
		return nil
	}
}

// placeHosts has hosts dialled at the addresses that hostaddr says, one for each.
func (r *reading) placeHosts() error {
	list := r.cfg.RuntimeParams["hostaddr"]
	delete(r.cfg.RuntimeParams, "hostaddr")
	if list == "" {
		return nil
	}
	addresses := strings.Split(list, ",")
	if len(addresses) != len(r.hosts) {
		return &Mistake{"lists more or fewer addresses in hostaddr than hosts", "one address for each host"}
	}
	at := map[string][]string{}
	for i, address := range addresses {
		h := &r.hosts[i]
		switch {
		case address == "":
			continue
		case net.ParseIP(address) == nil:
			return &Mistake{"has a hostaddr that is not an IP address", "hostaddr=10.0.0.5"}
		case h.socket():
			return &Mistake{"has a hostaddr for a host that is a directory of sockets", "a name in host, or the upstream without hostaddr"}
		}
		h.Address = address
		at[h.Name] = append(at[h.Name], address)
	}
	byName := r.cfg.LookupFunc
	r.cfg.LookupFunc = lookup(at, byName)
	return nil
}

//go:embed parameters.txt
var parameterNames string

// parameters are the run-time parameters of PostgreSQL 15 and 18, and some that were there before and between.
var parameters = func() map[string]bool {
	known := map[string]bool{}
	for name := range strings.FieldsSeq(parameterNames) {
		known[strings.ToLower(name)] = true
	}
	return known
}()

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// warnOfUnknown names what goes to the server, which probably does not know it either and then refuses every login.
func (r *reading) warnOfUnknown() {
	for _, name := range r.names() {
		if parameters[strings.ToLower(name)] || strings.Contains(name, ".") { // a dot: a setting of an extension, or of an application
			continue
		}
		value := r.cfg.RuntimeParams[name]
		if !plainName.MatchString(name) || strings.ContainsAny(value, "@/") { // perhaps the rest of a password that was not encoded
			r.warn("has a setting that neither libpq nor PostgreSQL knows; a server that does not know it refuses weir's logins. Special characters in a password must be percent-encoded")
			continue
		}
		r.warn("has " + name + ", which neither libpq nor PostgreSQL knows; a server that does not know it refuses weir's logins")
	}
}

// seconds of an option that may not be there.
func seconds(n *int) time.Duration {
	if n == nil || *n == 0 {
		return -1 // as the system has it
	}
	return time.Duration(*n) * time.Second
}
