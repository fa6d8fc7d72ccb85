package bench
import ("testing";"context";"os";"encoding/json";"time";"fmt";"strings";"hearth/api";"hearth/client"
"github.com/anthropics/anthropic-sdk-go")
func TestFloor(t *testing.T){
 ctx:=context.Background()
 p,err:=open(ctx,Config{Binary:os.Getenv("HB")},""); if err!=nil{t.Fatal(err)}
 defer p.close()
 env,key,_:=p.environment(ctx,"x")
 w:=client.New(p.url,key)
 _=w
 id,err:=p.session(ctx,env,strings.Repeat("$ :\n",300)); if err!=nil{t.Fatal(err)}
 stream := p.client.SDK().Beta.Sessions.Events.StreamEvents(ctx, id, anthropic.BetaSessionEventStreamParams{})
 seen:=map[string]bool{}
 var s1,s2 sample
 handle:=func(e api.Event){
   if e.Type!=api.EventAgentToolUse||seen[e.ID]{return}
   seen[e.ID]=true
   t1:=time.Now()
   s1=append(s1,t1.Sub(*e.ProcessedAt))
   err:=p.client.Do(ctx,"POST","v1/sessions/"+id+"/events",map[string]any{"events":[]any{map[string]any{"type":"user.tool_result","tool_use_id":e.ID,"content":[]any{map[string]any{"type":"text","text":"x"}}}}},nil)
   if err!=nil{t.Fatal(err)}
   s2=append(s2,time.Since(t1))
 }
 evs,_:=p.log(ctx,id); for _,e:=range evs{handle(e)}
 for stream.Next(){ var e api.Event; json.Unmarshal([]byte(stream.Current().RawJSON()),&e); handle(e); if endsTurn(e){break}}
 fmt.Println("to stream",s1.cells(),"post",s2.cells())
 evs,_=p.log(ctx,id)
 asked:=map[string]time.Time{}; var s3,s4,s5 sample; var last, start time.Time
 for _,e:=range evs{ switch e.Type{case api.EventAgentToolUse: asked[e.ID]=*e.ProcessedAt; if !last.IsZero(){s4=append(s4,e.ProcessedAt.Sub(last))}
   if !start.IsZero(){s5=append(s5,e.ProcessedAt.Sub(start))}
  case api.EventModelRequestStart: start=*e.ProcessedAt
  case api.EventUserToolResult: last=*e.ProcessedAt; s3=append(s3,last.Sub(asked[e.ToolUseID]))}}
 fmt.Println("floor",s3.cells(),"result to next use",s4.cells(), "request start to use", s5.cells())
}
