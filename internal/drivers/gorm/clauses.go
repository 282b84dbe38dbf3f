package main

import (
	"database/sql"
	"database/sql/driver"
	"strconv"
	"strings"

	"gorm.io/gorm/clause"
)

func returning(columns ...string) clause.Returning {
	var r clause.Returning
	for _, name := range columns {
		r.Columns = append(r.Columns, clause.Column{Name: name})
	}
	return r
}

// onConflict updates the column that says which row it is, or with none does nothing.
func onConflict(column string) clause.OnConflict {
	if column == "" {
		return clause.OnConflict{DoNothing: true}
	}
	return clause.OnConflict{Columns: []clause.Column{{Name: column}}, DoUpdates: clause.AssignmentColumns([]string{column})}
}

func forUpdate(options string) clause.Locking {
	return clause.Locking{Strength: clause.LockingStrengthUpdate, Options: options}
}

var isolations = []*sql.TxOptions{{Isolation: sql.LevelSerializable}, {Isolation: sql.LevelRepeatableRead, ReadOnly: true}}

// pgArray is one parameter; GORM makes a list of parameters of a slice.
type pgArray []int

func (a pgArray) Value() (driver.Value, error) {
	texts := make([]string, len(a))
	for i, n := range a {
		texts[i] = strconv.Itoa(n)
	}
	return "{" + strings.Join(texts, ",") + "}", nil
}
