import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TimeZone;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/** The JDBC driver against the server of PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE; prints a transcript. */
public class Jdbc {
  interface Feature {
    void run() throws Exception;
  }

  static String feature = "";

  public static void main(String[] args) throws Exception {
    // The driver sends the JVM's time zone as a startup parameter; one that no server has by default shows if it is lost.
    TimeZone.setDefault(TimeZone.getTimeZone("Asia/Kathmandu"));
    print(map("driver", "JDBC", "version", org.postgresql.util.DriverInfo.DRIVER_VERSION));
    Map<String, Feature> features = new LinkedHashMap<>();
    features.put("connect", Jdbc::connect);
    features.put("types", Jdbc::types);
    features.put("queries and errors", () -> queries(""));
    // Trap 59: the settings that poolers without prepared statements make their users choose.
    features.put("queries, preferQueryMode=simple", () -> queries("preferQueryMode=simple"));
    features.put("queries, preferQueryMode=extendedCacheEverything", () -> queries("preferQueryMode=extendedCacheEverything"));
    features.put("queries, prepareThreshold=0", () -> queries("prepareThreshold=0"));
    features.put("queries, binaryTransfer and prepareThreshold=-1", () -> queries("prepareThreshold=-1&binaryTransfer=true"));
    features.put("default prepareThreshold", Jdbc::threshold);
    features.put("autocommit off", Jdbc::autocommitOff);
    features.put("batch", () -> batch(""));
    features.put("batch, reWriteBatchedInserts", () -> batch("reWriteBatchedInserts=true"));
    features.put("fetch size (portals)", Jdbc::portals);
    features.put("COPY manager", Jdbc::copy);
    features.put("large objects", Jdbc::largeObjects);
    features.put("warnings", Jdbc::warnings);
    features.put("metadata", Jdbc::metadata);
    features.put("large values", Jdbc::largeValues);
    features.put("cancel and query timeout", Jdbc::cancel);
    features.put("autosave", Jdbc::autosave);
    features.put("session state", Jdbc::session);
    features.put("server connections change hands", () -> turns(""));
    // Without this option the driver runs SET at connect.
    features.put("server connections change hands, assumeMinServerVersion=9.0", () -> turns("&assumeMinServerVersion=9.0"));
    Set<String> skip = Set.copyOf(Arrays.asList(args));
    for (Map.Entry<String, Feature> f : features.entrySet()) {
      if (skip.contains(f.getKey())) {
        continue;
      }
      feature = f.getKey();
      try {
        f.getValue().run();
      } catch (Exception e) {
        say("threw", list(showError(e), e.toString(), Arrays.toString(Arrays.copyOf(e.getStackTrace(), Math.min(12, e.getStackTrace().length)))));
      }
    }
  }

  // The transcript.

  static void say(String step, Object saw) {
    print(map("feature", feature, "step", step, "saw", saw));
  }

  static synchronized void print(Object line) {
    StringBuilder b = new StringBuilder();
    json(b, line);
    b.append('\n');
    byte[] bytes = b.toString().getBytes(StandardCharsets.UTF_8);
    System.out.write(bytes, 0, bytes.length);
    System.out.flush();
  }

  static Map<String, Object> map(Object... pairs) {
    Map<String, Object> m = new LinkedHashMap<>();
    for (int i = 0; i < pairs.length; i += 2) {
      m.put((String) pairs[i], pairs[i + 1]);
    }
    return m;
  }

  static List<Object> list(Object... values) {
    return new ArrayList<>(Arrays.asList(values));
  }

  static void json(StringBuilder b, Object v) {
    if (v instanceof Map<?, ?> m) {
      String comma = "{";
      for (Map.Entry<?, ?> e : m.entrySet()) {
        b.append(comma);
        json(b, e.getKey());
        b.append(':');
        json(b, e.getValue());
        comma = ",";
      }
      b.append(m.isEmpty() ? "{}" : "}");
    } else if (v instanceof List<?> l) {
      String comma = "[";
      for (Object e : l) {
        b.append(comma);
        json(b, e);
        comma = ",";
      }
      b.append(l.isEmpty() ? "[]" : "]");
    } else if (v == null || v instanceof Number || v instanceof Boolean) {
      b.append(v);
    } else {
      b.append('"');
      for (char c : v.toString().toCharArray()) {
        if (c == '"' || c == '\\') {
          b.append('\\').append(c);
        } else if (c < ' ') {
          b.append(String.format("\\u%04x", (int) c));
        } else {
          b.append(c);
        }
      }
      b.append('"');
    }
  }

  /** The text itself, or its length and checksum. */
  static String brief(String text) throws Exception {
    if (text.length() <= 200) {
      return text;
    }
    byte[] sum = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
    return text.length() + " characters, sha256 " + new BigInteger(1, sum).toString(16);
  }

  static Object show(Object v) throws Exception {
    if (v == null) {
      return null;
    }
    if (v instanceof byte[] bytes) {
      return "bytes " + brief(new BigInteger(1, bytes).toString(16));
    }
    if (v instanceof Array a) {
      return "array " + a.getBaseTypeName() + " " + brief(a.toString());
    }
    return v.getClass().getSimpleName() + " " + brief(v.toString());
  }

  static Object showError(Throwable t) {
    Map<String, Object> saw = map("class", t.getClass().getSimpleName());
    if (t instanceof SQLException e) {
      saw.put("state", e.getSQLState());
    }
    if (t instanceof PSQLException e && e.getServerErrorMessage() != null) {
      saw.putAll(showServerError(e.getServerErrorMessage()));
    }
    return saw;
  }

  static Map<String, Object> showServerError(ServerErrorMessage m) {
    return map(
        "severity", m.getSeverity(), "code", m.getSQLState(), "message", m.getMessage(), "detail", m.getDetail(), "hint", m.getHint(),
        "position", m.getPosition(), "internalPosition", m.getInternalPosition(), "internalQuery", m.getInternalQuery(), "where", m.getWhere(),
        "schema", m.getSchema(), "table", m.getTable(), "column", m.getColumn(), "type", m.getDatatype(), "constraint", m.getConstraint(),
        "file", m.getFile(), "line", m.getLine(), "routine", m.getRoutine());
  }

  static Object showWarnings(SQLWarning w) {
    List<Object> saw = list();
    for (; w != null; w = w.getNextWarning()) {
      saw.add(w instanceof org.postgresql.util.PSQLWarning p ? showServerError(p.getServerErrorMessage()) : w.toString());
    }
    return saw;
  }

  static Object showRows(ResultSet rs) throws Exception {
    ResultSetMetaData meta = rs.getMetaData();
    List<Object> columns = list();
    for (int i = 1; i <= meta.getColumnCount(); i++) {
      columns.add(list(meta.getColumnLabel(i), meta.getColumnTypeName(i), meta.getColumnType(i), meta.getPrecision(i), meta.getScale(i)));
    }
    List<Object> rows = list();
    SQLException error = null;
    try {
      while (rs.next()) {
        List<Object> row = list();
        for (int i = 1; i <= meta.getColumnCount(); i++) {
          row.add(show(rs.getObject(i)));
        }
        rows.add(row);
      }
    } catch (SQLException e) {
      error = e;
    }
    if (rows.size() > 100) {
      rows = list(rows.size(), brief(rows.toString()));
    }
    Map<String, Object> saw = map("columns", columns, "rows", rows);
    if (error != null) {
      saw.put("error", showError(error));
    }
    return saw;
  }

  /** All results of a statement that has just been executed. */
  static Object showResults(Statement st, boolean rows) throws Exception {
    List<Object> saw = list();
    while (true) {
      if (rows) {
        saw.add(showRows(st.getResultSet()));
      } else if (st.getLargeUpdateCount() >= 0) {
        saw.add(st.getLargeUpdateCount());
      } else {
        break;
      }
      rows = st.getMoreResults();
    }
    if (st.getWarnings() != null) {
      saw.add(map("warnings", showWarnings(st.getWarnings())));
    }
    return saw;
  }

  // Connections and statements.

  static String url(String database, String params) {
    String sslmode = params.contains("sslmode=") ? "" : "&sslmode=" + System.getenv("PGSSLMODE");
    return "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + database + "?" + params + sslmode;
  }

  static Connection open(String params) throws SQLException {
    return DriverManager.getConnection(url(System.getenv("PGDATABASE"), params), System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
  }

  static void run(Connection conn, String sql) throws Exception {
    try (Statement st = conn.createStatement()) {
      say(brief(sql), showResults(st, st.execute(sql)));
    } catch (SQLException e) {
      say(brief(sql), showError(e));
    }
  }

  static void run(Connection conn, String sql, Object... args) throws Exception {
    try (PreparedStatement st = conn.prepareStatement(sql)) {
      execute(brief(sql), st, args);
    } catch (SQLException e) {
      say(brief(sql), showError(e));
    }
  }

  static void execute(String step, PreparedStatement st, Object... args) throws Exception {
    try {
      for (int i = 0; i < args.length; i++) {
        st.setObject(i + 1, args[i]);
      }
      say(step, showResults(st, st.execute()));
    } catch (SQLException e) {
      say(step, showError(e));
    }
  }

  // The features.

  static void connect() throws Exception {
    // At connect the driver sends user, database, client_encoding, DateStyle, TimeZone and extra_float_digits as startup
    // parameters, and then SET extra_float_digits = 3 and SET application_name, unless assumeMinServerVersion says more.
    for (String params : List.of("", "assumeMinServerVersion=9.0&ApplicationName=drivers tests", "options=-c%20statement_timeout=54321", "currentSchema=pg_catalog,public",
        "sslmode=prefer", "readOnly=true", "gssEncMode=disable", "loginTimeout=30")) {
      try (Connection conn = open(params)) {
        PGConnection pg = conn.unwrap(PGConnection.class);
        Map<String, Object> statuses = new java.util.TreeMap<>(pg.getParameterStatuses());
        say("parameters with " + params, statuses);
        say("has a process id", pg.getBackendPID() != 0);
        say("valid", conn.isValid(5));
        run(conn, "show timezone");
        run(conn, "show datestyle");
        run(conn, "show statement_timeout");
        run(conn, "show search_path");
        run(conn, "select (timestamptz '2024-02-29 12:34:56+00')::text, 0.1::float8 + 0.2::float8");
      }
    }
    try (Connection conn = DriverManager.getConnection(url(System.getenv("PGDATABASE"), ""), System.getenv("PGUSER"), "wrong")) {
      say("wrong password", "was let in");
    } catch (PSQLException e) {
      ServerErrorMessage m = e.getServerErrorMessage(); // weir words it as PostgreSQL does, without a line in PostgreSQL's source
      say("wrong password", list(e.getSQLState(), m.getSeverity(), m.getMessage(), m.getDetail(), m.getHint()));
    }
  }

  static void types() throws Exception {
    String[] expressions = {
      "true", "1::int2", "2", "3::int8", "0.1::float4", "0.1::float8", "'NaN'::float8", "12345.678900::numeric", "'text'::text", "'c'::char(3)",
      "'\\x00ff'::bytea", "'2024-02-29'::date", "'12:34:56.789'::time", "'2024-02-29 12:34:56.789'::timestamp",
      "'2024-02-29 12:34:56+05:45'::timestamptz", "'1 mon 2 days 03:04:05'::interval", "'00112233-4455-6677-8899-aabbccddeeff'::uuid",
      "'{\"a\": [1, null]}'::jsonb", "'{1,NULL,3}'::int4[]", "'{a,\"b c\",NULL}'::text[]", "'[1,10)'::int4range", "'10.0.0.1/8'::inet",
      "'(1,2)'::point", "null::text", "row(1, 'x')", "'grüße 🌊'",
    };
    for (String params : List.of("", "prepareThreshold=-1")) {
      try (Connection conn = open(params)) {
        for (String expr : expressions) {
          run(conn, "select " + expr + " as v where true = ?", true);
        }
        run(conn, "select ?::int2, ?::int8, ?::numeric, ?::text, ?::bool, ?::timestamptz", 1, 2L, new BigDecimal("1.50"), "o'clock", true, new Timestamp(0));
        try (PreparedStatement st = conn.prepareStatement("select ?, ?::text is null, ?")) {
          st.setBytes(1, new byte[] {0, (byte) 255});
          st.setNull(2, Types.VARCHAR);
          st.setArray(3, conn.createArrayOf("int4", new Object[] {1, null, 3}));
          say("parameters", showResults(st, st.execute()));
        }
      }
    }
  }

  static void queries(String params) throws Exception {
    try (Connection conn = open(params)) {
      run(conn, "drop table if exists jdbc_q");
      run(conn, "create table jdbc_q (id serial primary key, name text check (name <> 'bad'), at timestamptz, amount numeric(10, 2))");
      for (int i = 0; i < 12; i++) {
        run(conn, "insert into jdbc_q (name, at, amount) values (?, ?, ?)", "name " + i, new Timestamp(i * 3_600_000L), new BigDecimal("12.50"));
      }
      for (int i = 0; i < 12; i++) {
        run(conn, "select id, name, at, amount from jdbc_q where id between ? and ? order by id", i, i + 1);
      }
      run(conn, "select 1 as a; select 'x' as b, 2 as c; update jdbc_q set name = 'u' where id < 3; select 3");
      run(conn, "select ?::int; select ?::text", 1, "two");
      run(conn, "insert into jdbc_q (name) values ('m'); select 1/0; insert into jdbc_q (name) values ('never')");
      run(conn, "select count(*) from jdbc_q where name in ('m', 'never')");
      run(conn, "");
      run(conn, ";");
      run(conn, "-- only a comment");
      run(conn, "select from jdbc_q where id < 3");
      run(conn, "insert into jdbc_q (id) values (?)", 1);
      run(conn, "insert into jdbc_q (name) values (?)", "bad");
      run(conn, "select 1 / ?", 0);
      run(conn, "select 1 / (3 - g) from generate_series(1, ?) g", 5);
      run(conn, "select ?::int", "not a number");
      run(conn, "selec ?", 1);
      run(conn, "select * from nowhere");
      run(conn, "select count(*) from jdbc_q where id > ?", 0);
      try (PreparedStatement st = conn.prepareStatement("insert into jdbc_q (name) values (?) returning id", Statement.RETURN_GENERATED_KEYS)) {
        st.setString(1, "keys");
        say("rows", st.executeUpdate());
        say("generated keys", showRows(st.getGeneratedKeys()));
      }
      try (CallableStatement st = conn.prepareCall("{? = call upper(?)}")) {
        st.registerOutParameter(1, Types.VARCHAR);
        st.setString(2, "called");
        st.execute();
        say("function", st.getString(1));
      } catch (SQLException e) {
        say("function", showError(e)); // the driver cannot do it in simple mode
      }
      try (Statement st = conn.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
          ResultSet rs = st.executeQuery("select id, name from jdbc_q where id < 4 order by id")) {
        rs.absolute(2);
        rs.updateString("name", "updated in place");
        rs.updateRow();
        rs.last();
        say("last", rs.getInt(1));
        rs.deleteRow();
      } catch (SQLException e) {
        say("updatable", showError(e));
      }
      run(conn, "select id, name from jdbc_q where id < 4 order by id");
    }
  }

  /** From the fifth execution on the driver prepares on the server (S_1, S_2…) and takes some types as binary. */
  static void threshold() throws Exception {
    try (Connection conn = open("");
        PreparedStatement one = conn.prepareStatement("select ? + 1 as n, now() is not null, 0.1::float8, '{1,2}'::int4[], timestamptz '2024-01-01 00:00:00Z'");
        PreparedStatement two = conn.prepareStatement("select ?::text || ? as t")) {
      for (int i = 0; i < 15; i++) {
        execute("one", one, i);
        execute("two", two, "a", "b" + i);
        say("prepared on the server", one.unwrap(org.postgresql.PGStatement.class).isUseServerPrepare());
        if (i == 10) {
          execute("another type of parameter", two, 1, 2.5); // closes the statement on the server and prepares again
        }
      }
      run(conn, "drop table if exists jdbc_ddl");
      run(conn, "create table jdbc_ddl (a int)");
      run(conn, "insert into jdbc_ddl values (1)");
      try (PreparedStatement st = conn.prepareStatement("select * from jdbc_ddl where a = ?")) {
        for (int i = 0; i < 8; i++) {
          execute("before DDL", st, 1);
        }
        run(conn, "alter table jdbc_ddl add b text default 'new'");
        for (int i = 0; i < 3; i++) {
          execute("after DDL", st, 1); // cached plan must not change result type
        }
      }
      try (PreparedStatement st = conn.prepareStatement("select 1 / ?")) {
        for (int i = 7; i >= -7; i--) {
          execute("fails in between", st, i);
        }
      }
      // More statements than the driver caches on the server: it closes the oldest.
      try (Connection small = open("preparedStatementCacheQueries=3&prepareThreshold=1")) {
        for (int i = 0; i < 30; i++) {
          run(small, "select " + i % 5 + " as which, ?::int", i);
        }
      }
    }
  }

  static void autocommitOff() throws Exception {
    try (Connection conn = open("")) {
      run(conn, "drop table if exists jdbc_tx");
      run(conn, "create table jdbc_tx (n int primary key)");
      conn.setAutoCommit(false);
      for (int round = 0; round < 12; round++) { // often enough for BEGIN and COMMIT to be prepared on the server too
        run(conn, "insert into jdbc_tx values (?)", round);
        run(conn, "select count(*) from jdbc_tx where n >= ?", 0);
        if (round % 3 == 2) {
          conn.rollback();
        } else {
          conn.commit();
        }
      }
      run(conn, "insert into jdbc_tx values (?)", 0);
      run(conn, "select 1");
      conn.rollback();
      Savepoint unnamed = conn.setSavepoint();
      run(conn, "insert into jdbc_tx values (?)", 0);
      conn.rollback(unnamed);
      Savepoint named = conn.setSavepoint("named");
      run(conn, "insert into jdbc_tx values (?)", 100);
      conn.rollback(named);
      conn.releaseSavepoint(unnamed);
      conn.commit();
      run(conn, "select n from jdbc_tx order by n");
      conn.commit();

      conn.setAutoCommit(true);
      conn.setAutoCommit(false);
      run(conn, "insert into jdbc_tx values (?)", 200);
      conn.setAutoCommit(true); // commits
      run(conn, "select max(n) from jdbc_tx");
      conn.setAutoCommit(false);
      run(conn, "insert into jdbc_tx values (?)", 300); // closed without a commit
    }
    try (Connection conn = open("")) {
      long deadline = System.nanoTime() + 10_000_000_000L;
      while (count(conn, "select count(*) from pg_locks where relation = 'jdbc_tx'::regclass") > 0 && System.nanoTime() < deadline) {
        Thread.sleep(5);
      }
      run(conn, "select max(n) from jdbc_tx");
    }
  }

  static long count(Connection conn, String sql) throws SQLException {
    try (Statement st = conn.createStatement();
        ResultSet rs = st.executeQuery(sql)) {
      rs.next();
      return rs.getLong(1);
    }
  }

  static void batch(String params) throws Exception {
    try (Connection conn = open(params)) {
      run(conn, "drop table if exists jdbc_b");
      run(conn, "create table jdbc_b (id int primary key, name text)");
      for (boolean auto : new boolean[] {true, false}) {
        conn.setAutoCommit(auto);
        int from = auto ? 0 : 100_000;
        for (int size : new int[] {1, 3, 300}) {
          try (PreparedStatement st = conn.prepareStatement("insert into jdbc_b values (?, ?)")) {
            for (int i = 0; i < size; i++) {
              st.setInt(1, from++);
              st.setString(2, "x".repeat(i));
              st.addBatch();
            }
            say("batch of " + size, brief(Arrays.toString(st.executeBatch())));
          }
        }
        try (PreparedStatement st = conn.prepareStatement("insert into jdbc_b values (?, ?)")) {
          for (int i : new int[] {900_001, 900_002, 0, 900_003}) {
            st.setInt(1, i);
            st.setString(2, "y");
            st.addBatch();
          }
          say("batch", Arrays.toString(st.executeBatch()));
        } catch (BatchUpdateException e) {
          say("batch with an error", list(brief(Arrays.toString(e.getUpdateCounts())), e.getSQLState(), showError(e.getCause())));
        }
        if (!auto) {
          conn.rollback();
        }
        try (PreparedStatement st = conn.prepareStatement("insert into jdbc_b values (?, ?) returning id", Statement.RETURN_GENERATED_KEYS)) {
          for (int i = 0; i < 5; i++) {
            st.setInt(1, from++);
            st.setString(2, "keys");
            st.addBatch();
          }
          say("batch", Arrays.toString(st.executeBatch()));
          say("generated keys", showRows(st.getGeneratedKeys()));
        }
        try (Statement st = conn.createStatement()) {
          st.addBatch("update jdbc_b set name = 'u' where id < 3");
          st.addBatch("delete from jdbc_b where id = 2");
          st.addBatch("do $$ begin end $$");
          say("batch of texts", Arrays.toString(st.executeBatch()));
        }
        if (!auto) {
          conn.commit();
        }
        run(conn, "select count(*), sum(id), sum(length(name)) from jdbc_b");
        if (!auto) {
          conn.commit();
        }
      }
    }
  }

  static void portals() throws Exception {
    try (Connection conn = open("defaultRowFetchSize=7")) {
      conn.setAutoCommit(false);
      for (int round = 0; round < 7; round++) {
        run(conn, "select g, repeat('x', g % 9) from generate_series(1, ?) g", 50);
      }
      // Two portals open at once, read in turns.
      try (PreparedStatement a = conn.prepareStatement("select generate_series(1, ?) as a");
          PreparedStatement b = conn.prepareStatement("select generate_series(1, ?) * 10 as b")) {
        a.setInt(1, 20);
        b.setInt(1, 20);
        try (ResultSet ra = a.executeQuery();
            ResultSet rb = b.executeQuery()) {
          List<Object> seen = list();
          while (ra.next() && rb.next()) {
            seen.add(list(ra.getInt(1), rb.getInt(1)));
          }
          say("in turns", seen);
        }
      }
      run(conn, "select 10 / (12 - g) from generate_series(1, ?) g", 20); // fails in the second fetch
      conn.rollback();
      try (PreparedStatement st = conn.prepareStatement("select generate_series(1, ?)")) {
        st.setInt(1, 1_000_000);
        try (ResultSet rs = st.executeQuery()) {
          rs.next();
          say("left early", rs.getInt(1));
        }
      }
      conn.commit();
      run(conn, "select 'goes on' where ? = 1", 1);
      conn.commit();
    }
    try (Connection conn = open("");
        PreparedStatement st = conn.prepareStatement("select generate_series(1, ?)")) {
      st.setMaxRows(5); // Execute with a row limit that is never resumed
      execute("max rows", st, 100);
      st.setFetchSize(3); // without a transaction the driver reads all at once
      execute("max rows and fetch size", st, 100);
    }
  }

  static void copy() throws Exception {
    try (Connection conn = open("")) {
      run(conn, "drop table if exists jdbc_c");
      run(conn, "create table jdbc_c (id int primary key, name text)");
      CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
      StringBuilder rows = new StringBuilder();
      for (int i = 0; i < 20_000; i++) {
        rows.append(i).append(",name ").append(i).append('\n');
      }
      String csv = "copy jdbc_c from stdin with (format csv)";
      say("in", copy.copyIn(csv, new StringReader(rows.toString())));
      // Few rows, all sent before the answer: this driver loses count when an error comes while it is still sending.
      for (String bad : List.of("50000,x\n1,duplicate\n", "50000,x\nnot a row\n50001,y\n")) {
        try {
          say("in", copy.copyIn(csv, new StringReader(bad)));
        } catch (SQLException e) {
          say("error", showError(e));
        }
        run(conn, "select 'goes on'");
      }
      try {
        copy.copyIn(csv, new InputStream() {
          @Override
          public int read() throws IOException {
            throw new IOException("the source is broken");
          }
        });
      } catch (SQLException | IOException e) {
        say("source fails", showError(e));
      }
      run(conn, "select 'goes on'");
      org.postgresql.copy.CopyIn in = copy.copyIn(csv);
      byte[] row = "60000,cancelled\n".getBytes(StandardCharsets.UTF_8);
      in.writeToCopy(row, 0, row.length);
      in.cancelCopy();
      say("cancelled", in.isActive());
      StringWriter out = new StringWriter();
      say("out", copy.copyOut("copy (select * from jdbc_c order by id) to stdout with (format csv, header)", out));
      say("text", brief(out.toString()));
      out = new StringWriter();
      try {
        copy.copyOut("copy (select 1 / (5 - g) from generate_series(1, 9) g) to stdout", out);
      } catch (SQLException e) {
        say("error on the way out", list(out.toString(), showError(e)));
      }
      run(conn, "select count(*) from jdbc_c");
      conn.setAutoCommit(false);
      say("in a transaction", copy.copyIn(csv, new StringReader("70000,x\n")));
      conn.rollback();
      run(conn, "select count(*) from jdbc_c");
    }
  }

  /** The large object API calls functions with the protocol's FunctionCall message. */
  static void largeObjects() throws Exception {
    try (Connection conn = open("")) {
      conn.setAutoCommit(false);
      LargeObjectManager manager = conn.unwrap(PGConnection.class).getLargeObjectAPI();
      long oid = manager.createLO(LargeObjectManager.READWRITE);
      try (LargeObject lo = manager.open(oid, LargeObjectManager.READWRITE)) {
        lo.write("large object ".repeat(10_000).getBytes(StandardCharsets.UTF_8));
        say("size", lo.size64());
        lo.seek(6);
        say("read", new String(lo.read(20), StandardCharsets.UTF_8));
        ByteArrayOutputStream rest = new ByteArrayOutputStream();
        lo.getInputStream().transferTo(rest);
        say("rest", brief(rest.toString(StandardCharsets.UTF_8)));
      }
      manager.delete(oid);
      conn.commit();
      try {
        manager.open(oid);
      } catch (SQLException e) {
        say("gone", e.getSQLState());
      }
      conn.rollback();
      run(conn, "select 'goes on'");
    }
  }

  static void warnings() throws Exception {
    try (Connection conn = open("")) {
      say("at connect", showWarnings(conn.getWarnings()));
      for (String sql : List.of(
          "drop table if exists never_was",
          "do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; raise warning 'w'; end $$",
          "do $$ begin for i in 1..60 loop raise notice 'n %', i; end loop; end $$",
          "do $$ begin raise notice 'before'; raise exception 'failed' using errcode = 'XY123', detail = 'd', hint = 'h'; end $$")) {
        run(conn, sql);
      }
    }
  }

  static void metadata() throws Exception {
    try (Connection conn = open("")) {
      run(conn, "drop table if exists jdbc_child; drop table if exists jdbc_meta");
      run(conn, "create table jdbc_meta (id serial primary key, name varchar(20) not null default 'x')");
      run(conn, "create table jdbc_child (meta int references jdbc_meta on delete cascade)");
      DatabaseMetaData meta = conn.getMetaData();
      say("versions", list(meta.getDatabaseProductVersion(), meta.getDriverVersion()));
      for (ResultSet rs : List.of(
          meta.getTables(null, "public", "jdbc_m%", null), meta.getColumns(null, "public", "jdbc_meta", null), meta.getPrimaryKeys(null, null, "jdbc_meta"),
          meta.getIndexInfo(null, null, "jdbc_meta", true, true), meta.getExportedKeys(null, null, "jdbc_meta"), meta.getSchemas(), meta.getTypeInfo())) {
        List<Object> rows = list();
        while (rs.next()) {
          List<Object> row = list();
          for (int i = 1; i <= rs.getMetaData().getColumnCount(); i++) {
            if (!rs.getMetaData().getColumnLabel(i).endsWith("_CAT")) { // the database's name
              row.add(show(rs.getObject(i)));
            }
          }
          rows.add(row);
        }
        say("metadata", rows.size() > 20 ? list(rows.size(), brief(rows.toString())) : rows);
      }
      try (PreparedStatement st = conn.prepareStatement("select id, name, ? as p from jdbc_meta where id = ? and name like ?")) {
        ParameterMetaData parameters = st.getParameterMetaData();
        say("parameters", list(parameters.getParameterTypeName(1), parameters.getParameterTypeName(2), parameters.getParameterTypeName(3)));
        ResultSetMetaData columns = st.getMetaData(); // Describe without Execute
        say("columns", list(columns.getColumnName(1), columns.getTableName(2), columns.isNullable(2), columns.isAutoIncrement(1)));
      }
    }
  }

  static void largeValues() throws Exception {
    try (Connection conn = open("")) {
      for (int size : new int[] {8_192, 65_536, 4 << 20}) {
        run(conn, "select ?::text as v, length(?)", "v".repeat(size), "v".repeat(size));
      }
      run(conn, "select g, repeat('r', g % 100) from generate_series(1, ?) g", 20_000);
    }
  }

  static final String SLEEPERS = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";

  static void awaitSleepers(Connection watch, long want) throws Exception {
    long deadline = System.nanoTime() + 10_000_000_000L;
    while (count(watch, SLEEPERS) != want) {
      if (System.nanoTime() > deadline) {
        throw new IllegalStateException("sleepers are not " + want);
      }
      Thread.sleep(5);
    }
  }

  static void cancel() throws Exception {
    try (Connection conn = open("");
        Connection watch = open("")) {
      for (boolean auto : new boolean[] {true, false}) {
        conn.setAutoCommit(auto);
        for (int i = 0; i < 2; i++) {
          try (PreparedStatement st = conn.prepareStatement("select pg_sleep(?)")) {
            Thread canceller = new Thread(() -> {
              try {
                awaitSleepers(watch, 1);
                st.cancel();
              } catch (Exception e) {
                say("threw", e.toString());
              }
            });
            canceller.start();
            execute("cancelled", st, 30);
            canceller.join();
          }
          if (!auto) {
            conn.rollback();
          }
          run(conn, "select 'goes on' where ? = 1", 1);
        }
        if (!auto) {
          conn.rollback();
        }
      }
      conn.setAutoCommit(true);
      try (Statement st = conn.createStatement()) {
        st.setQueryTimeout(1);
        st.execute("select pg_sleep(30)");
      } catch (SQLException e) {
        say("query timeout", showError(e));
      }
      awaitSleepers(watch, 0);
      run(conn, "select 'goes on' where ? = 1", 1);
    }
  }

  /** With autosave the driver sets a savepoint before each statement and returns to it by itself. */
  static void autosave() throws Exception {
    try (Connection conn = open("autosave=always")) {
      conn.setAutoCommit(false);
      run(conn, "drop table if exists jdbc_as");
      run(conn, "create table jdbc_as (n int primary key)");
      for (int i = 0; i < 10; i++) {
        run(conn, "insert into jdbc_as values (?)", i / 2);
      }
      run(conn, "select * from jdbc_as order by n");
      conn.commit();
    }
  }

  static void session() throws Exception {
    try (Connection conn = open("");
        Connection other = open("")) {
      run(conn, "show application_name");
      run(conn, "show extra_float_digits");
      conn.setClientInfo("ApplicationName", "renamed");
      run(conn, "show application_name");
      conn.setSchema("pg_catalog");
      say("schema", conn.getSchema());
      run(conn, "set search_path = public");
      conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
      run(conn, "show transaction_isolation");
      say("isolation", conn.getTransactionIsolation());
      conn.setReadOnly(true);
      conn.setAutoCommit(false);
      run(conn, "create table jdbc_never (n int)");
      conn.rollback();
      conn.setAutoCommit(true);
      conn.setReadOnly(false);
      for (String sql : List.of(
          "set timezone = 'Asia/Tokyo'", "show timezone", "create temp table mine (n int)", "insert into mine values (1)", "select * from mine",
          "prepare p (int) as select $1 * 2", "execute p (21)", "select pg_try_advisory_lock(7)", "listen jdbc_news",
          "declare held cursor with hold for select generate_series(1, 5)", "fetch 2 from held", "fetch 2 from held")) {
        run(conn, sql);
      }
      run(other, "select pg_try_advisory_lock(7)");
      run(other, "notify jdbc_news, 'extra'");
      PGNotification[] notified = conn.unwrap(PGConnection.class).getNotifications(10_000);
      say("notified", notified == null ? null : list(notified[0].getName(), notified[0].getParameter()));
      for (int i = 0; i < 7; i++) {
        run(conn, "select ?::int", i);
      }
      run(conn, "deallocate all"); // behind the driver's back, which notices the tag
      run(conn, "select ?::int", 8);
      run(conn, "discard all");
      run(conn, "select ?::int", 9);
      run(conn, "select current_setting('timezone') as after_discard"); // what the client asked for at connect
    }
  }

  /** Two clients share one server connection, and both call their first statement S_1. */
  static void turns(String params) throws Exception {
    String url = url(System.getenv("PGDATABASE_ONE"), "prepareThreshold=1" + params);
    Properties login = new Properties();
    login.setProperty("user", System.getenv("PGUSER"));
    login.setProperty("password", System.getenv("PGPASSWORD"));
    try (Connection a = DriverManager.getConnection(url, login);
        Connection b = DriverManager.getConnection(url, login)) {
      for (int round = 0; round < 12; round++) {
        run(a, "select 'client a', ?::int", round);
        run(b, "select 'client b', ?::int, 'wider'", round);
        run(a, "select ?::text || ' of the same text'", "a" + round);
        run(b, "select ?::text || ' of the same text'", "b" + round);
        a.setAutoCommit(false);
        run(a, "select 'in a transaction', ?::int", round);
        a.commit();
        a.setAutoCommit(true);
      }
    }
  }
}
