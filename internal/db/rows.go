package db

import (
	"database/sql"
	"encoding/json"
)

// Strings reads the one column of a query's rows.
func Strings(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// Objects decodes the one column of a query's rows, which holds JSON.
func Objects[T any](rows *sql.Rows, err error) ([]T, error) {
	raws, err := Strings(rows, err)
	var all []T
	for _, raw := range raws {
		var one T
		if err := json.Unmarshal([]byte(raw), &one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, err
}
