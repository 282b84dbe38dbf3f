package drivers_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
)

// simple runs a simple query and shows every result in it.
func simple(ctx context.Context, conn *pgconn.PgConn, sql string) any {
	results, err := conn.Exec(ctx, sql).ReadAll()
	saw := []any{}
	for _, res := range results {
		saw = append(saw, showResult(res))
	}
	if err != nil {
		saw = append(saw, showError(err))
	}
	return saw
}

// query runs one statement the way the connection is set to, and shows it.
func query(ctx context.Context, conn *pgx.Conn, sql string, args ...any) any {
	return showRows(conn.Query(ctx, sql, args...))
}

func showRows(rows pgx.Rows, err error) any {
	if err != nil {
		return showError(err)
	}
	defer rows.Close()
	saw := map[string]any{}
	fields := rows.FieldDescriptions()
	got := []any{}
	for rows.Next() {
		row := showRow(fields, rows.RawValues())
		if values, err := rows.Values(); err != nil {
			row = append(row, showError(err))
		} else {
			for _, v := range values {
				row = append(row, fmt.Sprintf("%T", v))
			}
		}
		got = append(got, row)
	}
	rows.Close()
	saw["fields"], saw["rows"], saw["tag"] = showFields(fields), got, rows.CommandTag().String()
	if err := rows.Err(); err != nil {
		saw["error"] = showError(err)
	}
	return saw
}

func showResult(res *pgconn.Result) any {
	saw := map[string]any{"fields": showFields(res.FieldDescriptions), "tag": res.CommandTag.String()}
	if len(res.Rows) > 100 {
		sum := sha256.New()
		for _, row := range res.Rows {
			fmt.Fprintln(sum, showRow(res.FieldDescriptions, row)...)
		}
		saw["rows"] = []any{len(res.Rows), hex.EncodeToString(sum.Sum(nil))}
	} else {
		rows := []any{}
		for _, row := range res.Rows {
			rows = append(rows, showRow(res.FieldDescriptions, row))
		}
		saw["rows"] = rows
	}
	if res.Err != nil {
		saw["error"] = showError(res.Err)
	}
	return saw
}

func showPipelined(res any, err error) any {
	if err != nil {
		return showError(err)
	}
	switch res := res.(type) {
	case *pgconn.ResultReader:
		return showResult(res.Read())
	case *pgconn.StatementDescription:
		return showStatement(res, nil)
	default:
		return fmt.Sprintf("%T", res)
	}
}

func showStatement(sd *pgconn.StatementDescription, err error) any {
	if err != nil {
		return showError(err)
	}
	return map[string]any{"parameters": sd.ParamOIDs, "fields": showFields(sd.Fields)}
}

// showFields leaves out the table's OID, which depends on what was created before.
func showFields(fields []pgconn.FieldDescription) []any {
	saw := []any{}
	for _, f := range fields {
		saw = append(saw, []any{f.Name, f.TableOID != 0, f.TableAttributeNumber, f.DataTypeOID, f.DataTypeSize, f.TypeModifier, f.Format})
	}
	if len(saw) > 100 {
		return []any{len(saw), short(fmt.Append(nil, saw))}
	}
	return saw
}

func showRow(fields []pgconn.FieldDescription, values [][]byte) []any {
	row := []any{}
	for i, v := range values {
		switch {
		case v == nil:
			row = append(row, nil)
		case fields[i].Format == pgx.TextFormatCode:
			row = append(row, short(v))
		default:
			row = append(row, short(hex.AppendEncode(nil, v)))
		}
	}
	if len(row) > 100 {
		return []any{len(row), short(fmt.Append(nil, row...))}
	}
	return row
}

// short is the text itself, or its length and checksum.
func short(v []byte) string {
	if len(v) <= 200 {
		return string(v)
	}
	return fmt.Sprintf("%d bytes, sha256 %x", len(v), sha256.Sum256(v))
}

// showError shows a server's error in full, and of any other only what kind it is: its text may name a port.
func showError(err error) any {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pgErr):
		return showPgError(pgErr)
	default:
		return fmt.Sprintf("%T", err)
	}
}

// showLoginError is for a login that is refused: weir words it as PostgreSQL does, without a line in PostgreSQL's source.
func showLoginError(err error) any {
	var pgErr *pgconn.PgError
	var pqErr *pq.Error
	switch {
	case errors.As(err, &pgErr):
		return []string{pgErr.Severity, pgErr.Code, pgErr.Message, pgErr.Detail, pgErr.Hint}
	case errors.As(err, &pqErr):
		return []string{pqErr.Severity, string(pqErr.Code), pqErr.Message, pqErr.Detail, pqErr.Hint}
	default:
		return showError(err)
	}
}

func showPgError(e *pgconn.PgError) any {
	if e == nil {
		return nil
	}
	saw := map[string]any{}
	for name, v := range map[string]any{
		"severity": e.Severity, "unlocalized": e.SeverityUnlocalized, "code": e.Code, "message": e.Message, "detail": e.Detail, "hint": e.Hint,
		"position": e.Position, "internalPosition": e.InternalPosition, "internalQuery": e.InternalQuery, "where": e.Where,
		"schema": e.SchemaName, "table": e.TableName, "column": e.ColumnName, "type": e.DataTypeName, "constraint": e.ConstraintName,
		"file": e.File, "line": e.Line, "routine": e.Routine,
	} {
		if v != "" && v != int32(0) {
			saw[name] = v
		}
	}
	return saw
}
