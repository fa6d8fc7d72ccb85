package session

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"hearth/api"
	"hearth/internal/brain/queue"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// BenchmarkAppend measures durable appends to 64 sessions at a time, of one
// event a request and of ten. The Postgres of the tests does not sync to disk;
// `hearth bench events --database-url` measures one that does.
func BenchmarkAppend(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.OpenSQLite, "postgres": dbtest.OpenPostgres} {
		for _, batch := range []int{1, 10} {
			b.Run(fmt.Sprintf("%s/%d", name, batch), func(b *testing.B) { benchmarkAppend(b, open(b), batch) })
		}
	}
}

func benchmarkAppend(b *testing.B, d *db.DB, batch int) {
	ctx := context.Background()
	store, err := New(ctx, Config{DB: d})
	if err != nil {
		b.Fatal(err)
	}
	q, err := queue.New(ctx, queue.Config{DB: d, SigningKey: make([]byte, 32), Sessions: store})
	if err != nil {
		b.Fatal(err)
	}
	store.UseQueue(q)
	bench := &bench{ctx: ctx, store: store}
	ids := make([]string, 64)
	for i := range ids {
		ids[i] = bench.create(b, api.EnvironmentSelfHosted)
	}
	events := slices.Repeat([]map[string]any{message("Look at the log of the payment service, and say what is wrong with it.")}, batch)
	var next atomic.Int64
	b.SetParallelism(len(ids) / 2)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		id := ids[int(next.Add(1))%len(ids)]
		for pb.Next() {
			bench.send(b, id, SenderClient, events...)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
}
